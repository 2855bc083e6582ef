import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { FamilyRules } from "../../src/firewall/family.ts";
import { Firewall } from "../../src/firewall/firewall.ts";
import { HOOKED, type Hook, hooks, standingRules } from "../../src/firewall/layout.ts";
import { entrance } from "../../src/firewall/port-rules.ts";
import { type Chain, type Rule, ruleKey } from "../../src/firewall/rule.ts";
import { Iptables } from "../../src/kernel/iptables/iptables.ts";
import { applyAll } from "../../src/step.ts";
import { run } from "../lab/command.ts";
import { useIptables } from "../support/iptables-variant.ts";
import { mustBeIsolated, ruleLines, wipe } from "../support/isolated.ts";
import { addNativeRule } from "../support/native-rule.ts";
import { portRules, ruleSets } from "../support/rule-sets.ts";

const ENGINE_BRIDGES = [
  { name: "br-0123456789ab", internal: true, subnets: [] },
  { name: "docker0", internal: false, subnets: [] },
];
/** The chains of iptables' own, by their tables. */
const BUILT_IN = Object.entries({
  raw: ["PREROUTING", "OUTPUT"],
  mangle: ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"],
  nat: ["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"],
  filter: ["INPUT", "FORWARD", "OUTPUT"],
}).flatMap(([table, chains]) => chains.map((chain) => [table, chain] as const));
const FOREIGN = "*filter\n:MINE - [0:0]\n-A FORWARD -j MINE\n-A MINE -s 203.0.113.9/32 -j ACCEPT\nCOMMIT\n";

const SILENT = { done: () => undefined, undone: () => undefined };

/** Not a chain, of what {@link ruleLines} gives. */
function isRule(text: string): boolean {
  return text.includes(" -A ");
}

/** `table -A CHAIN spec` of a rule. */
function line({ table, name, spec }: Omit<Rule, "family">): string {
  return `${table} -A ${name} ${spec}`;
}

/** What must be in tsnet's chains, for these rules of networks. */
function chained(rules: readonly Rule[]): string[] {
  const jumps = new Map<string, string>();
  for (const rule of rules)
    for (let at: Chain = rule, jump = entrance(at); jump; at = jump, jump = entrance(at))
      jumps.set(ruleKey(jump), line(jump));
  return [...standingRules(ENGINE_BRIDGES).map(line), ...jumps.values(), ...rules.map(line)];
}

/** The jumps that there must be for these rules of networks: those to chains that have rules. */
function neededHooks(family: 4 | 6, rules: readonly Rule[]): Hook[] {
  const lines = chained(rules);
  return hooks(family).filter(({ to }) => lines.some((one) => one.startsWith(`${to.table} -A ${to.name} `)));
}

/** Everything that must be in iptables-save besides chains, for these rules of networks. */
function wanted(family: 4 | 6, rules: readonly Rule[]): string[] {
  const jumps = neededHooks(family, rules).map(({ from, to, spec }) => `${to.table} -A ${from} ${spec}`);
  return [...jumps, ...chained(rules)].sort();
}

for (const variant of ["nf_tables", "legacy"] as const)
  describe(`rules in iptables (${variant})`, () => {
    let restorePath: () => Promise<void>;
    const program = (family: 4 | 6, command: string) =>
      `${family === 4 ? "iptables" : "ip6tables"}${command}`;
    const saved = async (family: 4 | 6) => await ruleLines(family, program(family, "-save"));
    let opened: Iptables[] = [];
    const open = (family: 4 | 6) => {
      const iptables = new Iptables(family, HOOKED);
      opened.push(iptables);
      const rules = new FamilyRules(family, iptables, () => Promise.resolve(undefined));
      rules.setEngineBridges(ENGINE_BRIDGES);
      return rules;
    };
    /** With rules to change. */
    const openWithSet = (family: 4 | 6) => ({
      rules: open(family),
      set: ruleSets().find((one) => one.family === family)?.rules ?? assert.fail(),
    });

    before(async () => {
      mustBeIsolated();
      restorePath = await useIptables(variant);
      assert.match((await run(["iptables", "--version"])).stdout, new RegExp(variant));
    });
    afterEach(async () => {
      for (const iptables of opened) iptables.close();
      opened = [];
      await wipe();
    });
    after(() => restorePath());

    it("come back from iptables-save exactly as they were written, every golden set of them", async function () {
      this.timeout(120_000);
      for (const family of [4, 6] as const) {
        const rules = open(family);
        const sets = ruleSets().filter((set) => set.family === family);
        const ports = { titles: ["published ports"], rules: portRules(family) };
        for (const { titles, rules: set } of [...sets, ports]) {
          assert.equal(await rules.change(set, []), true);
          const there = (await saved(family)).filter(isRule);
          assert.deepEqual(there.sort(), wanted(family, set), titles[0]);
          // What was read back is taken for what was written, so there is nothing to do.
          rules.forget();
          assert.equal(await rules.change(set, []), false, titles[0]);
          await rules.change([], set);
          assert.deepEqual(await saved(family), [], titles[0]);
        }
      }
    });

    it("are in the golden files to the letter", () => {
      const golden = ["nat", "nat-unprotected", "routed", "isolated", "ports"]
        .map((name) =>
          readFileSync(join(import.meta.dirname, `../unit/firewall/golden/${name}.rules`), "utf8"),
        )
        .join("\n");
      const rules = [...ruleSets().flatMap((set) => set.rules), ...portRules(4), ...portRules(6)];
      for (const { table, name, spec } of rules)
        assert.ok(golden.includes(`-t ${table} -A ${name} ${spec}\n`));
    });

    it("are put right whatever others did to the tables meanwhile, and others' are left alone", async () => {
      const family = 4;
      const rules = open(family);
      const [set = assert.fail(), other = assert.fail()] = ruleSets().filter(({ titles }) =>
        titles[0]?.startsWith("IPv4"),
      );
      const restore = program(family, "-restore");
      await run([restore, "--noflush"], { input: FOREIGN });
      const foreign = await saved(family);
      const acts: Record<string, () => Promise<unknown>> = {
        "flush every table": () =>
          run(["sh", "-c", `for t in mangle nat filter; do ${program(family, "")} -w -t $t -F; done`]),
        "flush and delete chains": () =>
          run([
            "sh",
            "-c",
            `for t in mangle nat; do ${program(family, "")} -w -t $t -F; ${program(family, "")} -w -t $t -X; done`,
          ]),
        "delete the jumps": () =>
          run([restore, "--noflush"], {
            input: neededHooks(family, set.rules)
              .map(({ from, to, spec }) => `*${to.table}\n-D ${from} ${spec}\nCOMMIT\n`)
              .join(""),
          }),
        "put rules of theirs before and behind": () =>
          run([restore, "--noflush"], {
            input: "*mangle\n-I FORWARD 1 -j ACCEPT\n-A FORWARD -j ACCEPT\nCOMMIT\n",
          }),
        "add every rule once more": () =>
          run([restore, "--noflush"], {
            input: set.rules.map((rule) => `*${rule.table}\n-A ${rule.name} ${rule.spec}\nCOMMIT\n`).join(""),
          }),
      };
      for (const [what, act] of Object.entries(acts)) {
        await rules.change(set.rules, []);
        await act();
        rules.forget();
        await rules.change(set.rules, []);
        const there = new Set(await saved(family));
        for (const rule of wanted(family, set.rules)) assert.ok(there.has(rule), `${what}: ${rule}`);
        // What others did is seen by the program that stays, not only by the one that reads.
        await rules.change(other.rules, set.rules);
        await rules.change([], other.rules);
        await run(["sh", "-c", `${program(family, "")} -w -t mangle -F FORWARD`]);
        rules.forget();
        for (const owner of await rules.owners())
          await rules.change([], [...(await rules.rulesOf(owner)).values()]);
        if (what === "flush every table") await run([restore, "--noflush"], { input: FOREIGN });
        assert.deepEqual(await saved(family), foreign, what);
      }
    });

    if (variant === "nf_tables")
      it("are read and put right in tables that have rules which only nft can show, unless those are in a built-in chain", async () => {
        for (const family of [4, 6] as const) {
          const rules = open(family);
          const ports = portRules(family);
          const [set = assert.fail()] = ruleSets().filter((one) => one.family === family);
          await run([program(family, ""), "-t", "nat", "-N", "ts-postrouting"]);
          await rules.change([...set.rules, ...ports], []);
          const before = await saved(family);
          await addNativeRule(family, "nat", "ts-postrouting", "masq");
          await run([program(family, ""), "-t", "mangle", "-N", "theirs"]);
          await addNativeRule(family, "mangle", "theirs", "notrack");
          assert.match((await run([program(family, "-save")])).stdout, /Table `nat' is incompatible/);
          rules.forget();
          assert.equal(await rules.change([...set.rules, ...ports], []), false);
          const [port = assert.fail()] = ports.filter(({ table }) => table === "nat");
          await run([program(family, ""), "-w", "-t", "nat", "-F", port.name]);
          rules.forget();
          assert.equal(await rules.change([...set.rules, ...ports], []), true);
          for (const [table, chain] of [
            ["nat", "ts-postrouting"],
            ["mangle", "theirs"],
          ] as const)
            await run([program(family, ""), "-w", "-t", table, "-F", chain]);
          await run([program(family, ""), "-t", "mangle", "-X", "theirs"]);
          assert.deepEqual((await saved(family)).sort(), before.sort());
          await addNativeRule(family, "nat", "PREROUTING", "masq").catch(() =>
            addNativeRule(family, "nat", "POSTROUTING", "masq"),
          );
          rules.forget();
          await assert.rejects(
            rules.change([], set.rules),
            /-t nat -S P\w+ROUTING: the chain has a rule that only nft can read/,
          );
        }
      });

    if (variant === "nf_tables")
      it("are read and put right beside a rule that iptables-save ends at, wherever tsnet does not need the chain", async () => {
        for (const family of [4, 6] as const) {
          const { rules, set } = openWithSet(family);
          const iptables = async (...args: string[]) => await run([program(family, ""), "-w", ...args]);
          await rules.change(set, []);
          const before = await saved(family);
          for (const [table, chain] of BUILT_IN) {
            await iptables("-t", table, "-N", "theirs");
            await addNativeRule(family, table, "theirs", "meta skuid 1000");
            const needed = hooks(family).some(({ from, to }) => to.table === table && from === chain);
            if (!needed) {
              await iptables("-t", table, "-A", chain, "-j", "theirs");
              await addNativeRule(family, table, chain, "meta skuid 1000");
            }
            await assert.rejects(run([program(family, "-save")]), /Parsing nftables rule failed/);
            rules.forget();
            assert.equal(await rules.change(set, []), false, `${table} ${chain}`);
            await iptables("-t", "filter", "-F", "TSNET-FORWARD");
            rules.forget();
            assert.equal(await rules.change(set, []), true, `${table} ${chain}`);
            if (!needed) await iptables("-t", table, "-F", chain);
            for (const command of ["-F", "-X"]) await iptables("-t", table, command, "theirs");
            assert.deepEqual((await saved(family)).sort(), before.sort(), `${table} ${chain}`);
          }
          await rules.change([], set);
        }
      });

    if (variant === "nf_tables")
      it("cannot be put right beside such a rule in a built-in chain that leads to them, and that is named", async () => {
        for (const family of [4, 6] as const) {
          const { rules, set } = openWithSet(family);
          for (const { from, to } of hooks(family)) {
            await rules.change(set, []);
            const before = await saved(family);
            await run([program(family, ""), "-w", "-t", to.table, "-A", from, "-j", "ACCEPT"]);
            await addNativeRule(family, to.table, from, "meta skuid 1000");
            rules.forget();
            await assert.rejects(rules.change([], set), (error: Error) => {
              const chain = `KernelError: ${program(family, "")} -w 10 -t ${to.table} -S ${from}`;
              const why = "the chain has a rule that only nft can read; move that to a table of its own";
              assert.equal(String(error), `${chain}: ${why}`);
              return true;
            });
            await run([program(family, ""), "-w", "-t", to.table, "-F", from]);
            rules.forget();
            await rules.change(set, []);
            assert.deepEqual((await saved(family)).sort(), before.sort());
            await rules.change([], set);
          }
        }
      });

    if (variant === "nf_tables")
      it("are put right where somebody put such a rule in one of their chains", async () => {
        for (const family of [4, 6] as const) {
          const { rules, set } = openWithSet(family);
          await rules.change(set, []);
          const before = await saved(family);
          for (const chain of ["TSNET-ISOLATION", "TSNET-BRIDGES"]) {
            await addNativeRule(family, "mangle", chain, "meta skuid 1000");
            rules.forget();
            await rules.change(set, []);
            assert.deepEqual((await saved(family)).sort(), before.sort(), chain);
          }
          await rules.change([], set);
        }
      });

    it("that iptables refuses are said with its own words, nothing of their table is there, and the next go through", async () => {
      const rules = open(4);
      const [set = assert.fail()] = ruleSets().filter(({ titles }) => titles[0]?.startsWith("IPv4"));
      const bad: Rule = {
        family: 4,
        table: "mangle",
        name: "TSNET-TO",
        spec: "-m comment --comment tsnet-x -j NOWHERE",
      };
      await rules.change(set.rules, []);
      const before = await saved(4);
      await assert.rejects(rules.change([bad], []), /^KernelError: .*iptables-restore.*NOWHERE/);
      assert.deepEqual(await saved(4), before);
      const [iptables = assert.fail()] = opened;
      // Only nf_tables' says more than the line, and it says that on another.
      const refusal =
        variant === "nf_tables"
          ? /^KernelError: iptables-restore: iptables-restore v\S+ \(nf_tables\): line \d+: CHAIN_DEL failed .*: chain TSNET-ISOLATION$/
          : /^KernelError: iptables-restore: iptables-restore: line \d+ failed$/;
      await assert.rejects(
        iptables.restore("*mangle\n-F TSNET-ISOLATION\n-X TSNET-ISOLATION\nCOMMIT\n"),
        refusal,
      );
      assert.deepEqual(await saved(4), before);
      await rules.change([], set.rules);
      assert.deepEqual(await saved(4), []);
    });

    it("of both families are as they were when those of one are refused", async () => {
      const firewall = new Firewall();
      try {
        const [of4 = [], of6 = []] = ([4, 6] as const).map(
          (family) => ruleSets().find((set) => set.family === family)?.rules,
        );
        await firewall.rules("rules", [...of4, ...of6]).apply();
        const before = [await saved(4), await saved(6)];
        for (const family of [4, 6] as const) {
          const rules = ([4, 6] as const).map((each) => ({
            family: each,
            table: "mangle" as const,
            name: "TSNET-TO",
            spec: `-m comment --comment tsnet-x -j ${each === family ? "NOWHERE" : "ACCEPT"}`,
          }));
          const step = firewall.rules("rules that one family refuses", rules);
          await assert.rejects(applyAll([step], SILENT), /KernelError: .*NOWHERE/);
          assert.deepEqual([await saved(4), await saved(6)], before);
        }
      } finally {
        firewall.close();
      }
    });

    it("go in although the program that waits for them was killed", async () => {
      const rules = open(4);
      const [set = assert.fail(), other = assert.fail()] = ruleSets().filter(({ titles }) =>
        titles[0]?.startsWith("IPv4"),
      );
      await rules.change(set.rules, []);
      const children = readFileSync(`/proc/self/task/${process.pid}/children`, "utf8").trim().split(" ");
      const waiting = children
        .map(Number)
        .filter((pid) => readFileSync(`/proc/${pid}/comm`, "utf8").includes("tables"));
      assert.equal(waiting.length, 1);
      for (const pid of waiting) process.kill(pid, "SIGKILL");
      await rules.change(other.rules, []);
      const there = (await saved(4)).filter(isRule);
      for (const rule of wanted(4, [...set.rules, ...other.rules])) assert.ok(there.includes(rule), rule);
    });

    it("do not keep others out between two changes", async () => {
      const rules = open(4);
      const [set = assert.fail()] = ruleSets();
      await rules.change(set.rules, []);
      const start = performance.now();
      await run(["iptables", "-w", "1", "-A", "INPUT", "-j", "ACCEPT"]);
      assert.ok(performance.now() - start < 900);
    });
  });
