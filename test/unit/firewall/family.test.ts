import assert from "node:assert/strict";
import fc from "fast-check";
import { bridgeRules } from "../../../src/firewall/bridge-rules.ts";
import { FamilyRules } from "../../../src/firewall/family.ts";
import { CHAINS, type EngineBridge, hooks, standingRules } from "../../../src/firewall/layout.ts";
import { type Rule, ruleKey } from "../../../src/firewall/rule.ts";
import { FakeIptables } from "../../support/fake-iptables.ts";
import { portRules } from "../../support/rule-sets.ts";

/** The rules of a small network of that number. */
function network(number: number): Rule[] {
  return bridgeRules({
    family: 4,
    bridge: `ts-${String(number)}`,
    subnets: [`10.${String(number)}.0.0/16`],
    ...{ internal: number % 3 === 0, icc: number % 2 === 0, masquerade: true, mode: "nat" },
    comment: `tsnet-${String(number)}`,
  });
}

const DOCKER0 = { name: "docker0", internal: false, subnets: ["172.17.0.0/16"] };
/** Whatever is known goes on before anything else is looked at. */
const FIRST_OF_ISOLATION = standingRules([]).find(({ name }) => name === CHAINS.isolation.name);

/** An engine's and a user's rules, as they stand on a Docker host. */
const FOREIGN = `*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
COMMIT
*filter
:FORWARD DROP [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -i docker0 -j ACCEPT
-A DOCKER-USER -j RETURN
COMMIT
`;

function rulesIn(iptables: FakeIptables): FamilyRules {
  return new FamilyRules(4, iptables, () => Promise.resolve(iptables.edits));
}

describe("FamilyRules", () => {
  let iptables: FakeIptables;
  let rules: FamilyRules;
  /** What of the given rules is there; with the chains' own rules if any is. */
  const assertThere = (wanted: readonly Rule[], engineBridges: readonly EngineBridge[] = []) => {
    const all = wanted.length === 0 ? [] : [...wanted, ...standingRules(engineBridges)];
    const there = iptables
      .userChains()
      .map((key) => key.split(" ") as [string, string])
      .filter(([, name]) => name.startsWith("TSNET-"))
      .flatMap(([table, name]) =>
        (iptables.rules(table, name) ?? []).map((spec) => `${table} ${name} ${spec}`),
      );
    assert.deepEqual(there.sort(), all.map(ruleKey).sort());
    for (const { from, to, spec } of hooks(4)) {
      const jumps = iptables.rules(to.table, from)?.filter((rule) => rule === spec);
      const target = iptables.rules(to.table, to.name);
      assert.equal(jumps?.length, target ? 1 : 0, `${to.table} ${from} ${spec}`);
      assert.notEqual(target?.length, 0, `${to.name} is empty`);
    }
    assert.deepEqual(
      iptables.rules(CHAINS.isolation.table, CHAINS.isolation.name)?.[0],
      wanted.length > 0 ? FIRST_OF_ISOLATION?.spec : undefined,
    );
  };

  beforeEach(() => {
    iptables = new FakeIptables();
    iptables.edit(FOREIGN);
    rules = rulesIn(iptables);
  });

  it("makes chains, jumps and rules with one restore", async () => {
    assert.equal(await rules.change(network(1), []), true);
    assertThere(network(1));
    assert.deepEqual([iptables.restores.length, iptables.saves], [1, 1]);
  });

  it("does nothing for what is there, and reads nothing for it", async () => {
    await rules.change(network(1), []);
    assert.equal(await rules.change(network(1), []), false);
    assert.deepEqual([iptables.restores.length, iptables.saves], [1, 1]);
  });

  it("leaves what was there before, to the letter, when the last rule goes", async () => {
    const before = iptables.text();
    await rules.change(network(1), []);
    await rules.change(network(2), []);
    await rules.change([], network(1));
    assertThere(network(2));
    await rules.change([], network(2));
    assert.equal(iptables.text(), before);
    assert.equal(await rules.change([], network(2)), false);
  });

  it("jumps before everything of others', but behind DOCKER-USER", async () => {
    await rules.change(network(1), []);
    const jump = `-j ${CHAINS.forward.name}`;
    assert.deepEqual(iptables.rules("filter", "FORWARD"), ["-j DOCKER-USER", jump, "-i docker0 -j ACCEPT"]);
    assert.equal(iptables.rules("mangle", "FORWARD")?.[0], `-j ${CHAINS.isolation.name}`);
    assert.equal(iptables.rules("nat", "POSTROUTING")?.[0], `-j ${CHAINS.postrouting.name}`);
  });

  it("moves behind DOCKER-USER when the engine puts that lower than it was", async () => {
    await rules.change(network(1), []);
    iptables.edit("*filter\n-D FORWARD -j DOCKER-USER\n-A FORWARD -j DOCKER-USER\nCOMMIT\n");
    rules.forget();
    assert.equal(await rules.change(network(1), []), false);
    assert.match(rules.takeDrift().join("\n"), /^filter -I FORWARD 3 -j TSNET-FORWARD$/m);
    assert.deepEqual(iptables.rules("filter", "FORWARD"), [
      "-i docker0 -j ACCEPT",
      "-j DOCKER-USER",
      `-j ${CHAINS.forward.name}`,
    ]);
    rules.forget();
    assert.equal(await rules.change(network(1), []), false);
  });

  it("keeps the standing rules of ISOLATION in their order when one of them was lost", async () => {
    await rules.change(network(1), []);
    const { table, name } = CHAINS.isolation;
    const before = iptables.rules(table, name);
    iptables.edit(`*${table}\n-D ${name} ${before?.[0] ?? ""}\nCOMMIT\n`);
    rules.forget();
    await rules.change([], []);
    assert.deepEqual(iptables.rules(table, name), before);
    const told = rules.takeDrift();
    assert.ok(told.includes(`${table} -A ${name} ${before?.[0] ?? ""}`), told.join("\n"));
    assert.deepEqual(rules.takeDrift(), []);
  });

  it("keeps out of the engine's bridges, and follows when these change", async () => {
    rules.setEngineBridges([DOCKER0]);
    await rules.change(network(1), []);
    assertThere(network(1), [DOCKER0]);
    for (const internal of [false, true]) {
      const bridges = [DOCKER0, { name: "br-1", internal, subnets: ["172.18.0.0/16", "172.19.0.0/24"] }];
      rules.setEngineBridges(bridges);
      await rules.change([], []);
      assertThere(network(1), bridges);
      // What those before it have written is how the next daemon knows them.
      const next = rulesIn(iptables);
      assert.deepEqual(await next.engineBridges(), bridges);
      next.setEngineBridges(bridges);
      await next.change([], []);
      assert.deepEqual(next.takeDrift(), []);
    }
    rules.setEngineBridges([]);
    await rules.change([], []);
    assertThere(network(1));
  });

  it("lists the rules of networks, and not those that hold the chains together", async () => {
    rules.setEngineBridges([DOCKER0]);
    await rules.change(network(1), []);
    const [owner, ...rest] = await rules.owners();
    assert.deepEqual([owner, rest], ["tsnet-1", []]);
    const keys = [...(await rules.rulesOf("tsnet-1")).keys()];
    assert.deepEqual(keys.sort(), network(1).map(ruleKey).sort());
  });

  for (const [what, edit] of [
    ["every rule flushed", flush],
    ["every rule flushed and every chain deleted", purge],
  ] as const)
    it(`gets over ${what} by others, at the latest when told to look again`, async () => {
      await rules.change(network(1), []);
      edit(iptables);
      await rules.change(network(2), []);
      rules.forget();
      assert.equal(await rules.change([...network(1), ...network(2)], []), true);
      assertThere([...network(1), ...network(2)]);
      edit(iptables);
      await rules.change([], network(1));
      await rules.change([], network(2));
      assertThere([]);
    });

  it("reads again what somebody may have changed since it was read, and nothing else", async () => {
    await rules.change(network(1), []);
    // Its own change was one.
    rules.forgetOld(iptables.edits);
    assert.equal(await rules.change(network(1), []), false);
    assert.equal(iptables.saves, 2);
    rules.forgetOld(iptables.edits);
    assert.equal(await rules.change(network(1), []), false);
    assert.equal(iptables.saves, 2);
    flush(iptables);
    rules.forgetOld(iptables.edits);
    assert.equal(await rules.change(network(1), []), true);
    assert.equal(iptables.saves, 3);
    assertThere(network(1));
  });

  it("does not keep what was out of date before it was read to the end", async () => {
    await rules.change(network(1), []);
    rules.forget();
    const save = iptables.save.bind(iptables);
    iptables.save = async () => {
      const text = await save();
      flush(iptables);
      rules.forget();
      iptables.save = save;
      return text;
    };
    await rules.change([], []);
    assert.equal(await rules.change(network(1), []), true);
    assertThere(network(1));
  });

  it("reads again what it cannot tell of", async () => {
    rules = new FamilyRules(4, iptables, () => Promise.resolve(undefined));
    await rules.change(network(1), []);
    flush(iptables);
    rules.forgetOld(undefined);
    assert.equal(await rules.change(network(1), []), true);
    assertThere(network(1));
  });

  it("has the chains and jumps that its ports need, as if they had all come at once", async () => {
    const ports = portRules(4);
    await fc.assert(
      fc.asyncProperty(fc.array(fc.nat(ports.length - 1), { maxLength: 30 }), async (turns) => {
        const [stepwise, atOnce] = [new FakeIptables(), new FakeIptables()];
        rules = rulesIn(stepwise);
        const wanted = new Set<Rule>();
        for (const turn of turns) {
          const rule = ports[turn] ?? assert.fail();
          const had = wanted.delete(rule);
          if (!had) wanted.add(rule);
          await rules.change(had ? [] : [rule], had ? [rule] : []);
        }
        await rulesIn(atOnce).change([...wanted], []);
        const sorted = (text: string) => text.split("\n").sort();
        assert.deepEqual(sorted(stepwise.text()), sorted(atOnce.text()));
        assert.equal(stepwise.saves, turns.length > 0 ? 1 : 0);
      }),
      { numRuns: 200 },
    );
  });

  it("writes the chains that a change touches, and no others", async () => {
    await rules.change([...network(1), ...portRules(4)], []);
    const [one = assert.fail()] = network(2);
    await rules.change([one], []);
    assert.equal(iptables.restores.at(-1), `*${one.table}\n-A ${one.name} ${one.spec}\nCOMMIT\n`);
  });

  it("takes together what arrives while a restore is under way", async () => {
    let open: () => void = () => undefined;
    const gate = new Promise<void>((resolve) => (open = resolve));
    iptables.before = () => gate;
    const changes = [1, 2, 3, 4, 5].map((number) => rules.change(network(number), []));
    const again = rules.change(network(5), []);
    open();
    assert.deepEqual(await Promise.all([...changes, again]), [true, true, true, true, true, false]);
    assert.equal(iptables.restores.length, 2);
    assertThere([1, 2, 3, 4, 5].flatMap(network));
  });

  it("fails only the change that cannot be made, and leaves nothing of it", async () => {
    const bad: Rule = {
      family: 4,
      table: "mangle",
      name: CHAINS.to.name,
      spec: "-m comment --comment tsnet-9 -j NOWHERE",
    };
    const results = await Promise.allSettled([
      rules.change(network(1), []),
      rules.change([...network(2), bad], []),
      rules.change(network(4), []),
    ]);
    assert.deepEqual(
      results.map(({ status }) => status),
      ["fulfilled", "rejected", "fulfilled"],
    );
    await rules.change([], [...network(2), bad]);
    assertThere([...network(1), ...network(4)]);
  });

  it("goes on trying while somebody flushes table after table, and does what was asked in the end", async () => {
    await rules.change([...network(1), ...network(2)], []);
    const flushed = ["mangle", "nat", "filter"];
    iptables.before = async () => {
      const table = flushed.shift();
      if (table) flush(iptables, [table]);
      if (table) throw new Error("does a matching rule exist in that chain?");
    };
    assert.equal(await rules.change([], network(2)), false);
    assert.deepEqual(flushed, []);
    assertThere([]);
  });

  it("reads again and tries once more when a restore fails, and then says why", async () => {
    await rules.change(network(1), []);
    let failures = 1;
    iptables.before = () => (failures-- > 0 ? Promise.reject(new Error("busy")) : Promise.resolve());
    assert.equal(await rules.change(network(2), []), true);
    assertThere([...network(1), ...network(2)]);
    iptables.before = () => Promise.reject(new Error("no such module"));
    await assert.rejects(rules.change(network(4), []), { message: "no such module" });
    iptables.before = () => Promise.resolve();
    assert.equal(await rules.change([], network(4)), false);
    assertThere([...network(1), ...network(2)]);
  });

  it("has exactly what was asked for, whatever others do and whatever fails meanwhile", async () => {
    const which = fc.integer({ min: 1, max: 4 });
    const act = fc.oneof(
      fc.record({ act: fc.constantFrom("add", "remove"), which }),
      fc.record({
        act: fc.constantFrom("flush", "purge", "engine", "foreign", "fail", "fail half-way"),
        which,
      }),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(act, { maxLength: 12 }), async (acts) => {
        iptables = new FakeIptables();
        rules = rulesIn(iptables);
        const wanted = new Set<number>();
        let foreign = 0;
        let bridges: EngineBridge[] = [];
        const remove = async (which: number) => {
          wanted.delete(which);
          // What could not be deleted is an orphan now, and swept.
          await rules.change([], network(which)).catch(() => rules.change([], network(which)));
        };
        const others: Record<string, (which: number) => void> = {
          flush: () => {
            flush(iptables);
            foreign = 0;
          },
          purge: () => {
            purge(iptables);
            foreign = 0;
          },
          engine: (which) => {
            bridges = [DOCKER0, { name: "br-1", internal: which > 2, subnets: ["172.18.0.0/16"] }].slice(
              0,
              which,
            );
            rules.setEngineBridges(bridges);
          },
          foreign: () => {
            iptables.edit("*filter\n-I FORWARD 1 -j ACCEPT\nCOMMIT\n");
            foreign += 1;
          },
          fail: () => (iptables.before = failing(0)),
          "fail half-way": () => (iptables.before = failing(1)),
        };
        for (const { act, which } of acts) {
          if (act === "add")
            await rules.change(network(which), []).then(
              () => wanted.add(which),
              () => remove(which),
            );
          else if (act === "remove") await remove(which);
          else others[act]?.(which);
        }
        iptables.before = () => Promise.resolve();
        rules.forgetOld(iptables.edits);
        await rules.change([...wanted].flatMap(network), []);
        assertThere([...wanted].flatMap(network), bridges);
        assert.equal(
          iptables.rules("filter", "FORWARD")?.filter((spec) => spec === "-j ACCEPT").length,
          foreign,
        );
        assert.equal(await rules.change([...wanted].flatMap(network), []), false);
      }),
      { numRuns: 100 },
    );
  });

  /** A fault that happens once, after the first so many tables of a restore. */
  function failing(tables: number): (text: string) => Promise<void> {
    return (text) => {
      iptables.before = () => Promise.resolve();
      iptables.edit(
        text
          .split(/(?<=^COMMIT\n)/m)
          .slice(0, tables)
          .join(""),
      );
      return Promise.reject(new Error("busy"));
    };
  }
});

/** `iptables -F` for every table, or for these. */
function flush(iptables: FakeIptables, tables = ["mangle", "nat", "filter"]): void {
  for (const table of tables) {
    const chains = iptables
      .text()
      .split("*")
      .find((section) => section.startsWith(`${table}\n`))
      ?.match(/(?<=^:)\S+/gm);
    iptables.edit(`*${table}\n${(chains ?? []).map((chain) => `-F ${chain}\n`).join("")}COMMIT\n`);
  }
}

/** `iptables -F` and `iptables -X` for every table. */
function purge(iptables: FakeIptables): void {
  flush(iptables);
  for (const key of iptables.userChains()) {
    const [table = "", chain = ""] = key.split(" ");
    iptables.edit(`*${table}\n-X ${chain}\nCOMMIT\n`);
  }
}
