import assert from "node:assert/strict";
import { run } from "../lab/command.ts";
import { hostState, ip, mustBeIsolated, plugWire, wipe } from "../support/isolated.ts";
import { NETWORKS, endpointOf } from "../support/networks.ts";
import { id } from "../support/requests.ts";
import { Site } from "../support/site.ts";

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
