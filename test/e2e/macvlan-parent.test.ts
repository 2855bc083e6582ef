import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { NEWEST } from "../lab/engines.ts";
import { addresses, defaultRoutes, interfaces, link } from "./interfaces.ts";
import { type Neighbour, PARENT, addressed, lanAddress, reach, sorted } from "./lan.ts";
import { onLan } from "./on-lan.ts";
import { pings } from "./packets.ts";
import { until } from "./until.ts";

/** What is right again by itself is so within this time after the cause has gone. */
const REPAIR_MS = 2000;
/** Of mode bridge with host_access, private, vepa, and passthru on a parent of its own. */
const WHO_REACHES_WHOM: Readonly<Record<string, readonly string[]>> = {
  b1: ["b2", "passthru", "client", "here"],
  b2: ["b1", "passthru", "client", "here"],
  p1: ["passthru", "client"],
  p2: ["passthru", "client"],
  v1: ["passthru", "client"],
  v2: ["passthru", "client"],
  passthru: ["b1", "b2", "p1", "p2", "v1", "v2", "client", "here"],
  client: ["b1", "b2", "p1", "p2", "v1", "v2", "passthru", "here"],
  here: ["b1", "b2", "passthru", "client"],
};

onLan("macvlan parent", (lan) => {
  const { site } = lan;

  afterEach(() => lan.clear());

  it("without carrier: a container starts, status says what is wrong, and all works once the cable is back", async () => {
    const id = await lan.network("blue");
    await lan.lan.carrier(site.host, "down");
    site.later(() => lan.lan.carrier(site.host, "up"));
    await degraded(id, "parent lan0 has no carrier");
    const one = await lan.run("one", "blue", 100);
    assert.equal(await pings(one, lan.lan.client.v4, { expected: false }), false);
    await lan.lan.carrier(site.host, "up");
    await reachesAll(one);
    await degraded(id, undefined);
  });

  it("down: a container starts, status says what is wrong, and all works once it is up", async () => {
    await site.exec(["ip", "link", "set", PARENT, "down"]);
    site.later(() => site.exec(["ip", "link", "set", PARENT, "up"]));
    const id = await lan.network("blue");
    const told = `"network":"${id}","reason":"parent lan0 is down"`;
    await until("a line about it", async () => (await site.host.tsnetLog()).includes(told));
    const one = await lan.run("one", "blue", 100);
    assert.equal(await pings(one, lan.lan.client.v4, { expected: false }), false);
    await degraded(id, "parent lan0 is down");
    await site.exec([
      "sh",
      "-c",
      `ip link set ${PARENT} up; ip address add ${lan.here.v6}/64 dev ${PARENT} nodad`,
    ]);
    await reachesAll(one);
    await degraded(id, undefined);
  });

  it("gone: containers that run and one that starts are on the LAN again once it is back", async () => {
    const id = await lan.network("blue", ["host_access=on"]);
    const one = await lan.run("one", "blue", 100);
    const before = await inside(one);
    await lan.lan.unplug(site.host);
    site.later(() => replug());
    await degraded(id, "parent lan0 is gone");
    const two = await lan.run("two", "blue", 101);
    assert.deepEqual(addresses(await link(two, "eth0")), [`${two.v4}/24`, `${two.v6}/64`]);
    assert.equal(await pings(two, lan.lan.client.v4, { expected: false }), false);
    await replug();
    for (const place of [one, two]) await reachesAll(place, lan.here);
    assert.deepEqual(await inside(one), before);
    const expected = {
      one: ["two", "client", "here"],
      two: ["one", "client", "here"],
      client: ["one", "two", "here"],
    };
    const places = { one, two, client: lan.lan.client, here: lan.here };
    assert.deepEqual(sorted(await reach(places, expected)), sorted(expected));
    await degraded(id, undefined);
    // The engine takes back what it did not give, too.
    await site.docker("restart", "-t", "0", "one", "two");
    await reachesAll(one);
  });

  it("gone: a container's link comes back by the name that the engine has it by, and another network can be added", async () => {
    await Promise.all([lan.network("blue"), site.network("own")]);
    await site.run("one", "own");
    await site.docker("network", "connect", ...addressed(100), "blue", "one");
    const one = { ...site.container("one"), ...lanAddress(100) };
    await site.docker("network", "disconnect", "own", "one");
    // The name is looked for a second after the engine took the link.
    await sleep(1200);
    await lan.lan.unplug(site.host);
    site.later(() => replug());
    await replug();
    await until(
      "a link in the sandbox",
      async () => Object.keys(await interfaces(one)).length > 1,
      REPAIR_MS,
    );
    await site.docker("network", "connect", "own", "one");
    // Before 28 the engine counts on, and fills no gaps.
    const other = site.line === "28.5" ? "eth0" : "eth2";
    assert.deepEqual(Object.keys(await interfaces(one)).sort(), ["eth1", other, "lo"].sort());
    assert.equal(await pings(one, lan.lan.client.v4), true);
  });

  it("has its MTU followed, down and up again", async () => {
    await lan.network("blue");
    const one = await lan.run("one", "blue", 100);
    const followed = (mtu: number) =>
      until(`an MTU of ${String(mtu)}`, async () => (await link(one, "eth0")).mtu === mtu, REPAIR_MS);
    site.later(() => site.exec(["ip", "link", "set", PARENT, "mtu", "1500"]));
    for (const mtu of [1400, 9000, 1500]) {
      await site.exec(["ip", "link", "set", PARENT, "mtu", String(mtu)]);
      await followed(mtu);
    }
    assert.equal(await pings(one, lan.lan.client.v4), true);
  });

  it("tells the LAN at once who has a container's addresses now", async () => {
    await lan.network("blue");
    const { client } = lan.lan;
    const { v4, v6 } = lanAddress(100);
    const former = "02:00:00:00:00:99";
    for (const address of [v4, v6])
      await client.exec([
        "ip",
        "neigh",
        "replace",
        address,
        "lladdr",
        former,
        "dev",
        "eth0",
        "nud",
        "reachable",
      ]);
    const one = await lan.run("one", "blue", 100);
    const { address: mac } = await link(one, "eth0");
    const known = async () => (await client.exec(["ip", "neigh", "show"])).stdout;
    for (const address of [v4, v6])
      await until(
        `${address} to be known at ${mac}`,
        async () => (await known()).includes(`${address} dev eth0 lladdr ${mac}`),
        REPAIR_MS,
      );
    assert.doesNotMatch(await known(), new RegExp(former));
  });

  it("has its containers through restarts of tsnet, of the engine and of both", async function () {
    this.timeout(120_000);
    const [b1, b2] = await always(96, ["host_access=on"], "b1", "b2");
    const others = site.line === NEWEST ? await otherModes() : undefined;
    const places: Record<string, Neighbour> = { b1, b2, ...others, client: lan.lan.client, here: lan.here };
    const rows = Object.keys(places).map((from) => [
      from,
      (WHO_REACHES_WHOM[from] ?? []).filter((to) => to in places),
    ]);
    const expected = Object.fromEntries(rows) as Record<string, string[]>;
    await throughRestarts(async () => {
      const running = async () => (await site.host.api.listContainers()).length === rows.length - 2;
      await until("every container to run", running, 30_000);
      assert.deepEqual(sorted(await reach(places, expected)), sorted(expected));
    });
    if (!others) return;
    // The switch sends their frames back: that is for vepa, and must be nothing to private.
    await lan.lan.reflect(site.host, "on");
    site.later(() => lan.lan.reflect(site.host, "off"));
    const reflected = { p1: ["client"], p2: ["client"], v1: ["v2", "client"], v2: ["v1", "client"] };
    const { p1, p2, v1, v2, client } = { ...others, client: lan.lan.client };
    assert.deepEqual(sorted(await reach({ p1, p2, v1, v2, client }, reflected)), sorted(reflected));
  });

  /** Containers of the modes but bridge. */
  async function otherModes(): Promise<Record<"p1" | "p2" | "v1" | "v2" | "passthru", Neighbour>> {
    // A parent with a passthru link takes no other.
    await lan.lan.wire(site.host, "lan1");
    site.later(() => lan.lan.unplug(site.host, "lan1"));
    // The host must not answer there for its address on the other.
    await site.exec(["sh", "-c", "echo 1 >/proc/sys/net/ipv4/conf/lan1/arp_ignore"]);
    const [[p1, p2], [v1, v2], [passthru]] = await Promise.all([
      always(112, ["macvlan_mode=private"], "p1", "p2"),
      always(128, ["macvlan_mode=vepa"], "v1", "v2"),
      always(144, ["macvlan_mode=passthru", "parent=lan1"], "passthru"),
    ]);
    return { p1, p2, v1, v2, passthru };
  }

  /** Makes a network with sixteen of the LAN's addresses from a number on, and containers on it that always restart. */
  async function always<const N extends readonly string[]>(
    first: number,
    options: readonly string[],
    ...names: N
  ): Promise<{ [I in keyof N]: Neighbour }> {
    const [network = ""] = names;
    const { v4, v6 } = lanAddress(first);
    await site.network(
      `net-${network}`,
      ...["backend=macvlan", `parent=${PARENT}`, ...options].flatMap((option) => ["-o", option]),
      ...["--ipv6", "--subnet", "10.77.0.0/24", "--ip-range", `${v4}/28`],
      ...["--subnet", "fd77::/64", "--ip-range", `${v6}/124`],
    );
    const args = { args: ["--restart", "always"] };
    const running = names.map((name, index) => lan.run(name, `net-${network}`, first + 4 + index, args));
    return (await Promise.all(running)) as { [I in keyof N]: Neighbour };
  }

  async function throughRestarts(isWhole: () => Promise<void>): Promise<void> {
    const { host } = site;
    await isWhole();
    await host.killTsnet();
    await isWhole();
    await host.startTsnet();
    await isWhole();
    await host.stopEngine();
    await host.startEngine();
    await isWhole();
    await host.killEngine();
    await host.startEngine();
    await isWhole();
    await Promise.all([host.killEngine(), host.killTsnet()]);
    await host.startTsnet();
    await host.startEngine();
    await isWhole();
  }

  async function replug(): Promise<void> {
    const { stdout } = await site.exec(["ip", "-br", "link", "show"]);
    if (stdout.includes(`${PARENT}@`)) return;
    const here = await lan.lan.plug(site.host, 11);
    // The client knows the host by its former MAC.
    for (const address of [lan.lan.client.v4, lan.lan.client.v6]) await pings(here, address);
  }

  /** What the engine had set up in a container, and tsnet has to set up as it was. */
  async function inside(place: Neighbour): Promise<object> {
    const { ifname, mtu, address, ...rest } = await link(place, "eth0");
    return {
      ...{ ifname, mtu, address, addresses: addresses({ ifname, mtu, address, ...rest }) },
      routes: [await defaultRoutes(place, 4), await defaultRoutes(place, 6)],
    };
  }

  async function reachesAll(place: Neighbour, ...more: Neighbour[]): Promise<void> {
    const { client, outside } = lan.lan;
    for (const { v4, v6 } of [client, outside, ...more])
      for (const address of [v4, v6])
        await until(`an answer from ${address}`, () => pings(place, address, { expected: false }), REPAIR_MS);
  }

  async function degraded(network: string, why: string | undefined): Promise<void> {
    await until(
      `network to be ${why ?? "well"}`,
      async () => (await lan.degraded())[`network ${network}`] === why,
      REPAIR_MS,
    );
  }
});
