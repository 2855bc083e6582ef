import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { addresses, defaultRoutes, interfaces, link } from "./interfaces.ts";
import { type Neighbour, PARENT, addressed, lanAddress, reach } from "./lan.ts";
import { onLan } from "./on-lan.ts";
import { pings } from "./packets.ts";
import { until } from "./until.ts";

/** What is right again by itself is so within this time after the cause has gone. */
const REPAIR_MS = 2000;

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
    assert.match(await site.host.tsnetLog(), new RegExp(`"network":"${id}","reason":"parent lan0 is down"`));
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
    await lan.network("blue", ["host_access=on"]);
    const always = { args: ["--restart", "always"] };
    const [one, two] = await Promise.all([
      lan.run("one", "blue", 100, always),
      lan.run("two", "blue", 101, always),
    ]);
    const { host } = site;
    const whole = async () => {
      const running = async () => (await host.api.listContainers()).length === 2;
      await until("both containers to run", running, 30_000);
      const expected = {
        one: ["two", "client", "here"],
        two: ["one", "client", "here"],
        client: ["one", "two", "here"],
        here: ["one", "two", "client"],
      };
      const places = { one, two, client: lan.lan.client, here: lan.here };
      assert.deepEqual(sorted(await reach(places, expected)), sorted(expected));
    };
    await whole();
    await host.killTsnet();
    await whole();
    await host.startTsnet();
    await whole();
    await host.stopEngine();
    await host.startEngine();
    await whole();
    await host.killEngine();
    await host.startEngine();
    await whole();
    await Promise.all([host.killEngine(), host.killTsnet()]);
    await host.startTsnet();
    await host.startEngine();
    await whole();
  });

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

function sorted(rows: Readonly<Record<string, readonly string[]>>): Record<string, string[]> {
  return Object.fromEntries(Object.entries(rows).map(([from, to]) => [from, [...to].sort()]));
}
