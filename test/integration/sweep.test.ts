import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { isDeepStrictEqual } from "node:util";
import { vlanLink } from "../../src/steps/parent.ts";
import { run } from "../lab/command.ts";
import { FakeSandbox } from "../support/fake-sandbox.ts";
import { hostState, ip, ipLink, mustBeIsolated, plugWire, wipe } from "../support/isolated.ts";
import { NETWORKS, PORTS, endpointOf } from "../support/networks.ts";
import { id } from "../support/requests.ts";
import { Site } from "../support/site.ts";
import { until } from "../support/until.ts";

const LOST = id(7);
const TAG = LOST.slice(0, 12);
/** tsnet's number among those that say who made a route or a neighbour entry. */
const PROTOCOL = 116;

/** What is left of networks and containers that no record is of. */
const ORPHANS: Readonly<Record<string, readonly string[]>> = {
  "a route": [`route add 10.1.0.77/32 dev wire0 proto ${PROTOCOL}`],
  "an IPv6 route": [`route add fd01::77/128 dev wire0 proto ${PROTOCOL}`],
  "a neighbour": [neighbour("10.1.0.78")],
  "an IPv6 neighbour": [neighbour("fd01::78")],
  "the host's own macvlan": [
    `link add tsm${TAG} link wire0 type macvlan mode bridge`,
    `link set tsm${TAG} group 29811`,
  ],
  // Not every kernel has dummies and VLANs, and the kind is not looked at.
  "a parent that leads nowhere": [`link add tsp${TAG} type bridge`, `link set tsp${TAG} group 29811`],
  "a VLAN": ["link add wire0.77 type bridge", "link set wire0.77 group 29811"],
};
const ALIASES: Readonly<Record<string, string>> = {
  [`tsm${TAG}`]: `tsnet shim ${LOST}`,
  [`tsp${TAG}`]: `tsnet parent tsp${TAG}`,
  "wire0.77": "tsnet parent wire0.77",
};

function neighbour(address: string): string {
  return `neigh add ${address} lladdr 02:42:0a:01:00:4e dev wire0 nud permanent protocol ${PROTOCOL}`;
}

describe("what no record is of", () => {
  let site: Site;
  const network = {
    ...(NETWORKS["dual stack"] ?? assert.fail()),
    options: { backend: "macvlan", parent: "wire0", host_access: "on" },
  };

  before(mustBeIsolated);
  beforeEach(async () => {
    await plugWire();
    site = new Site();
    // What is on record, of the same kinds; and others' things that look alike.
    await site.driver.createNetwork(network);
    await site.driver.createNetwork({ ...network, id: id(4), options: { backend: "macvlan" } });
    await ip(
      "route add 203.0.113.0/24 dev wire0 proto static",
      "route add 10.1.0.88/32 dev wire0",
      "route add fd01::88/128 dev wire0 proto 117",
      "neigh add 10.1.0.88 lladdr 02:00:00:00:00:88 dev wire0 nud permanent",
      "neigh add fd01::88 lladdr 02:00:00:00:00:88 dev wire0 nud permanent protocol 117",
      "link add tsm0 link wire0 type macvlan",
      "link add tsp0 type bridge",
      "link add wire0.60 type bridge",
    );
    await run(["ip", "link", "set", "tsp0", "alias", "tsnet is not my parent"]);
    await run(["iptables", "-w", "-A", "FORWARD", "-o", "tsm0", "-j", "ACCEPT"]);
    await site.driver.createEndpoint(endpointOf(network));
    assert.deepEqual(await site.reconcile(), {});
  });
  afterEach(async () => {
    await site.stop();
    await wipe();
  });

  for (const [what, commands] of Object.entries(ORPHANS))
    it(`is swept and counted, and nothing beside it: ${what}`, async () => {
      const before = await hostState();
      await ip(...commands);
      const link = commands[0]?.split(" ")[2] ?? "";
      if (ALIASES[link]) await run(["ip", "link", "set", link, "alias", ALIASES[link]]);
      assert.notDeepEqual(await hostState(), before);
      assert.deepEqual(await site.reconcile(), { orphan: 1 });
      assert.deepEqual(await hostState(), before);
      assert.deepEqual(await site.reconcile(), {});
    });

  it("is swept if it is the end for a sandbox of a pair whose other end is elsewhere", async () => {
    const before = await hostState();
    const sandbox = await FakeSandbox.start();
    try {
      await ip(`link add tsc${TAG} type veth peer name tsh${TAG} netns ${String(sandbox.pid)}`);
      await ip(`link set tsc${TAG} group 29811`);
      // It has no alias either, as it may be just being made.
      assert.deepEqual(await site.reconcile(), {});
      assert.deepEqual(await site.reconcile(), { orphan: 1 });
      assert.deepEqual(await hostState(), before);
    } finally {
      await sandbox.end();
    }
  });

  it("stays while the engine has networks that are on the host and not on record, or does not answer", async () => {
    const other = NETWORKS["icc=false"] ?? assert.fail();
    const lost = { ...other, id: LOST, ipv4: [{ subnet: "10.9.0.0/24", gateway: "10.9.0.1/24", aux: {} }] };
    const elsewhere = new Site();
    try {
      await elsewhere.driver.createNetwork({ ...lost, ipv6: [] });
      await elsewhere.driver.createEndpoint({ network: LOST, id: id(77), ipv4: "10.9.0.2/24" });
      await elsewhere.driver.ports.publish(LOST, id(77), PORTS);
      const before = await hostState();
      await ip(`route add 10.1.0.77/32 dev wire0 proto ${PROTOCOL}`);
      const degraded = () => site.reconciler.health.degraded.get("records") ?? "";
      site.engineNetworks = undefined;
      assert.deepEqual(await site.reconcile(), {});
      assert.equal(degraded(), "");
      site.engineNetworks = new Set([network.id, LOST]);
      assert.deepEqual(await site.reconcile(), {});
      assert.match(
        degraded(),
        new RegExp(
          `missing for networks that the engine has: ${LOST}; start the daemon with the --state-dir`,
        ),
      );
      await ip("route del 10.1.0.77/32 dev wire0");
      assert.deepEqual(await hostState(), before);
      // What is on record is left to those who delete that.
      await site.reconciler.deleted(network.id);
      assert.deepEqual(await hostState(), before);
      // As after `docker network rm`.
      site.engineNetworks = new Set([network.id]);
      assert.ok(((await site.reconcile())["orphan"] ?? 0) > 3);
      assert.equal(degraded(), "");
      assert.doesNotMatch(JSON.stringify(await hostState()), new RegExp(TAG));
    } finally {
      await elsewhere.stop();
    }
  });

  it("goes at once when the engine deletes the network, though nothing else may be swept", async () => {
    const wanted = await hostState();
    const elsewhere = new Site();
    try {
      const other = NETWORKS["icc=false"] ?? assert.fail();
      const lost = { ...other, id: LOST, ipv4: [{ subnet: "10.9.0.0/24", gateway: "10.9.0.1/24", aux: {} }] };
      await elsewhere.driver.createNetwork({ ...lost, ipv6: [] });
      await elsewhere.driver.createEndpoint({ network: LOST, id: id(77), ipv4: "10.9.0.2/24" });
      site.engineNetworks = new Set([LOST]);
      await site.reconcile();
      assert.match(site.reconciler.health.degraded.get("records") ?? "", new RegExp(LOST));
      site.engineNetworks = undefined;
      // The kernel would have told of the rules.
      site.firewall.forget();
      assert.equal(await site.driver.deleteNetwork(LOST), false);
      await site.reconciler.deleted(LOST);
      assert.equal(site.reconciler.health.degraded.get("records"), undefined);
      await until("its links to be gone", async () =>
        isDeepStrictEqual(Object.keys((await hostState()).links), Object.keys(wanted.links)),
      );
      assert.deepEqual(await hostState(), wanted);
    } finally {
      await elsewhere.stop();
    }
  });

  describe("a VLAN", () => {
    const name = "wire0.77";
    const alias = ALIASES[name] ?? assert.fail();
    let sandbox: FakeSandbox;

    beforeEach(async () => {
      sandbox = await FakeSandbox.start();
      await ip(`link add ${name} type ifb`, `link set ${name} group 29811 up`);
      await run(["ip", "link", "set", name, "alias", alias]);
    });
    afterEach(() => sandbox.end());

    for (const [how, remove] of Object.entries<() => Promise<unknown>>({
      swept: () => site.reconcile(),
      "deleted with its last network": () =>
        vlanLink(site.host, { name, alias, base: "wire0", id: 77 }).revert(),
    })) {
      for (const [what, use] of Object.entries<() => Promise<unknown>>({
        "a container has a link on it": () => containerOn(name),
        "it has a link on it that is down": () => ip(`link add other link ${name} type macvlan`),
        "it has an address": () => ip(`address add 192.0.2.1/24 dev ${name}`),
        "it is a port of a bridge": () => ip("link add br0 type bridge", `link set ${name} master br0`),
      }))
        it(`is not ${how} but somebody else's from then on where others use it: ${what}`, async () => {
          await use();
          const before = await ipLink(name);
          await remove();
          const { ifalias, ...after } = (await ipLink(name)) ?? assert.fail();
          assert.equal(ifalias, undefined);
          assert.deepEqual({ ...after, ifalias: alias }, { ...before, group: "default" });
          assert.deepEqual(await site.reconcile(), {});
        });

      it(`is ${how} with what tsnet has on it, as soon as the kernel has taken down a container's link`, async () => {
        const shim = `tsm${TAG}`;
        await ip(`link add ${shim} link ${name} type macvlan mode bridge`, `link set ${shim} group 29811 up`);
        await run(["ip", "link", "set", shim, "alias", ALIASES[shim] ?? ""]);
        await containerOn(name);
        const gone = sleep(300).then(() => sandbox.end());
        await remove();
        await gone;
        await until("it to go", async () => (await ipLink(name)) === undefined);
        assert.equal(await ipLink(shim), undefined);
      });
    }

    async function containerOn(parent: string): Promise<void> {
      await ip(`link add eth0 link ${parent} netns ${String(sandbox.pid)} type macvlan mode bridge`);
      await sandbox.ip("link set eth0 up");
    }
  });

  it("is swept by a daemon that knows of no network, and others' things stay", async () => {
    await site.driver.deleteNetwork(network.id);
    await site.driver.deleteNetwork(id(4));
    const before = await hostState();
    await ip(...Object.values(ORPHANS).flat());
    for (const [link, alias] of Object.entries(ALIASES))
      await run(["ip", "link", "set", link, "alias", alias]);
    await site.restart();
    assert.deepEqual(await site.reconcile(), { orphan: Object.keys(ORPHANS).length });
    assert.deepEqual(await hostState(), before);
  });
});
