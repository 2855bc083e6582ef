import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { Answerers, type Question, ask } from "./answers.ts";
import { onNewestEngine } from "./newest-engine.ts";
import { repairs } from "./published.ts";
import { foreignRules, repairTime } from "./rules.ts";
import { subnets } from "./site.ts";
import { until } from "./until.ts";

/** Until what was repaired last has been looked at once more. */
const QUIET_MS = 2000;
/** How soon what somebody did to tsnet's rules must be made up for. */
const SOON_MS = 1000;

const TABLES = ["raw", "mangle", "nat", "filter"];
const PROGRAMS = ["iptables", "ip6tables"];

/** What people and programs do, as a shell script. */
const DAMAGES: Record<string, string> = {
  "every table flushed": onAll(TABLES, "-F"),
  // What is back already when its turn comes cannot be deleted.
  "every table flushed and every chain deleted": `${onAll(TABLES, "-F")}\n${onAll(TABLES, "-X")}\ntrue`,
  "the translations flushed": onAll(["nat"], "-F"),
  "a port's rule deleted": deleteFirst("nat", "--dport 8080 .*-j DNAT"),
  "a jump on the way to a port deleted": deleteFirst("nat", "-j TSNET-TCP-1F9"),
  "chains on the way to a port emptied": onAll(["nat"], "-F TSNET-TCP-1F"),
  "the jump from PREROUTING deleted": deleteFirst("nat", "^-A PREROUTING .*TSNET"),
  "the jump from OUTPUT deleted": deleteFirst("nat", "^-A OUTPUT .*TSNET"),
  "the jump from POSTROUTING deleted": deleteFirst("nat", "^-A POSTROUTING .*TSNET"),
  "the jump to what isolates deleted": deleteFirst("mangle", "^-A FORWARD .*TSNET"),
  "the jump to what is accepted deleted": deleteFirst("filter", "^-A FORWARD .*TSNET"),
  "a network's rule deleted": deleteFirst("mangle", "^-A TSNET-CLOSED"),
  "a port's rule doubled":
    "iptables-save -t nat | grep -m1 -e '--dport 8080 .*-j DNAT' | xargs iptables -t nat",
  "somebody's rule among tsnet's own": onAll(["filter"], "-I TSNET-FORWARD -j DROP"),
  "a rule in the wrong place": [
    onAll(["mangle"], "-D TSNET-ISOLATION -j TSNET-CLOSED"),
    onAll(["mangle"], "-I TSNET-ISOLATION -j TSNET-CLOSED"),
  ].join("\n"),
};

onNewestEngine("repair of rules", (site) => {
  const answerers = new Answerers();
  const times: string[] = [];

  before(async () => {
    // Its rules are flushed as well.
    site.later(async () => {
      await site.host.stopEngine();
      await site.host.startEngine();
    });
    const { v4, v6 } = subnets();
    await site.network("blue", "--ipv6", "--subnet", v4, "--subnet", v6);
    await publish("web", 8080);
  });

  after(async () => {
    console.log(`        ${times.join("\n        ")}`);
    await answerers.stop();
  });

  // One damage after the other is answered once a second, as a program that puts its own back each time would be.
  beforeEach(() => sleep(QUIET_MS));

  for (const [what, damage] of Object.entries(DAMAGES))
    it(`has everything back within a second, and counts it: ${what}`, async () => {
      const { length: count } = await repairs(site.host);
      const ms = await repairTime(site, damage);
      times.push(`${String(ms).padStart(4)} ms: ${what}`);
      assert.ok(ms < SOON_MS, `${String(ms)} ms`);
      await until("the repair to be counted", async () => (await repairs(site.host)).length > count, SOON_MS);
      await isReached("web", 8080);
    });

  it("brings an older set of rules up to date that somebody restores", async () => {
    const file = "/run/older";
    await publish("early", 8081);
    await site.exec(["sh", "-c", `iptables-save >${file}; ip6tables-save >${file}6`]);
    await site.docker("rm", "-f", "early");
    await site.run("filler", "blue");
    await publish("late", 8081);
    const restore = `iptables-restore <${file}; ip6tables-restore <${file}6`;
    const ms = await repairTime(site, restore);
    times.push(`${String(ms).padStart(4)} ms: an older set of rules restored`);
    assert.ok(ms < SOON_MS, `${String(ms)} ms`);
    await isReached("late", 8081);
    await isReached("web", 8080);
    await site.docker("rm", "-f", "late", "filler");
  });

  it("leaves everybody else's rules alone, and in force", async () => {
    const canaries = TABLES.flatMap((table) => [
      onAll([table], "-N CANARY"),
      onAll([table], "-A CANARY -m comment --comment tsnet -j RETURN"),
      onAll([table], "-I OUTPUT -j CANARY"),
      onAll([table], "-A OUTPUT -p udp -m udp --dport 8080 -j CANARY"),
    ]).join("\n");
    await site.exec(["sh", "-ec", canaries]);
    const before = await foreignRules(site);
    await publish("one", 8082);
    await site.docker("rm", "-f", "one");
    await repairTime(site, deleteFirst("nat", "^-A POSTROUTING .*TSNET"));
    await site.network("green");
    await site.docker("network", "rm", "green");
    await site.host.stopTsnet();
    await site.host.startTsnet();
    assert.deepEqual(await foreignRules(site), before);

    await site.exec(["sh", "-ec", onAll(["filter"], "-I FORWARD -j DROP")]);
    await repairTime(site, deleteFirst("nat", "^-A OUTPUT .*TSNET"));
    const dropped = await ask(
      site.neighbour,
      questions(8080).map((question) => ({ ...question, unexpected: true })),
    );
    assert.deepEqual(new Set(dropped), new Set(["nothing"]));
    await site.exec(["sh", "-ec", onAll(["filter"], "-D FORWARD -j DROP")]);
    await isReached("web", 8080);
    assert.deepEqual(await foreignRules(site), before);
  });

  it("stays first where somebody puts a rule of theirs before it", async () => {
    const rule = "POSTROUTING -j MASQUERADE";
    const ms = await repairTime(site, onAll(["nat"], `-I ${rule}`));
    assert.ok(ms < SOON_MS, `${String(ms)} ms`);
    await site.exec(["sh", "-ec", onAll(["nat"], `-D ${rule}`)]);
  });

  it("calls nothing drift that tsnet did itself", async () => {
    const { length: count } = await repairs(site.host);
    await publish("one", 8083);
    await site.docker("rm", "-f", "one");
    // A repair that is seen shows that everything before it was looked at.
    await repairTime(site, deleteFirst("nat", "^-A OUTPUT .*TSNET"));
    const seen = (await repairs(site.host)).slice(count);
    assert.ok(
      seen.every((what) => /^nat -I OUTPUT 1 .*-j TSNET-PORTS$/.test(what)),
      seen.join("\n"),
    );
  });

  async function publish(name: string, port: number): Promise<void> {
    const form = `${String(port)}:80`;
    await site.run(name, "blue", "-p", form, "-p", `${form}/udp`);
    await answerers.start(site.host, name, [80], name);
  }

  function questions(port: number): Question[] {
    return Object.values(site.address).flatMap((address): Question[] => [
      { address, port },
      { address, port, protocol: "udp" },
    ]);
  }

  async function isReached(name: string, port: number): Promise<void> {
    const { v4, v6 } = site.neighbourAddress;
    assert.deepEqual(
      await ask(site.neighbour, questions(port)),
      [v4, v4, v6, v6].map((seen) => `${name} ${seen}`),
    );
  }
});

/** Runs the same with both families' iptables in each table. */
function onAll(tables: readonly string[], args: string): string {
  return tables.flatMap((table) => PROGRAMS.map((program) => `${program} -t ${table} ${args}`)).join("\n");
}

/** Deletes the first rule of each family that matches. */
function deleteFirst(table: string, pattern: string): string {
  const rule = (program: string) =>
    `${program} -t ${table} -S | grep -m1 -e '${pattern}' | sed 's/^-A/-D/' | xargs ${program} -t ${table}`;
  return PROGRAMS.map(rule).join("\n");
}
