import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { isDeepStrictEqual } from "node:util";
import type { Endpoint, NetworkRequest } from "../../src/model.ts";
import { Announcer } from "../../src/reconcile/announcer.ts";
import { run } from "../lab/command.ts";
import {
  flushRules,
  hostState,
  ip,
  ipAddresses,
  ipLink,
  plugWire,
  readSysctl,
  setSysctl,
} from "../support/isolated.ts";
import { memoryLog } from "../support/log.ts";
import { CONTAINER_END, DEFAULTS, PARENT, SHIM, describeMacvlan, linkOf } from "../support/macvlan-kinds.ts";
import { V4, V6, endpointOf } from "../support/networks.ts";
import { id } from "../support/requests.ts";
import type { Site } from "../support/site.ts";
import { until } from "../support/until.ts";
import { onWire } from "../support/wired-host.ts";

/** Longer than it waits before it looks. */
const LOOK_MS = 400;
const ON_PARENT = { backend: "macvlan", parent: PARENT };

/** One network of each kind that plans differ by; their ids are the same, so one at a time. */
const NETWORKS: Readonly<Record<string, NetworkRequest>> = {
  "dual stack": { ...DEFAULTS, options: ON_PARENT },
  "IPv4 only with host access": { ...DEFAULTS, ipv6: [], options: { ...ON_PARENT, host_access: "on" } },
  "dual stack with host access": { ...DEFAULTS, options: { ...ON_PARENT, host_access: "on" } },
  private: { ...DEFAULTS, options: { ...ON_PARENT, macvlan_mode: "private" } },
  passthru: { ...DEFAULTS, options: { ...ON_PARENT, macvlan_mode: "passthru" } },
  "without a parent": { ...DEFAULTS, options: { backend: "macvlan" } },
  "without a parent, with host access": {
    ...DEFAULTS,
    ipv4: [{ ...V4, aux: { host: "10.1.0.200/16" } }],
    ipv6: [{ ...V6, aux: { host6: "fd01::200/64" } }],
    options: { backend: "macvlan", host_access: "on" },
  },
};

describe("macvlan backend on the kernel", () => {
  const host = onWire();
  let site: Site;

  beforeEach(() => {
    ({ site } = host);
  });

  for (const [kind, network] of Object.entries(NETWORKS)) describeMacvlan(kind, network, host);

  for (const [mode, mac] of [
    ["bridge", "02:42:0a:01:00:02"],
    ["passthru", "02:00:00:00:00:01"],
  ] as const)
    it(`waits for a link of a sandbox that is no more, as long as the kernel still has it: ${mode}`, async () => {
      const network = { ...DEFAULTS, options: { ...ON_PARENT, macvlan_mode: mode } };
      await ip(`link add old link ${PARENT} address ${mac} type macvlan mode ${mode}`, "link set old up");
      await site.driver.createNetwork(network);
      const gone = sleep(300).then(() => ip("link delete old"));
      await site.driver.createEndpoint(endpointOf(network, 2));
      assert.equal(await ipLink("old"), undefined);
      await gone;
      // As the engine does.
      await ip(`link set ${CONTAINER_END} up`);
    });

  describe("host access", () => {
    const network = NETWORKS["dual stack with host access"] ?? assert.fail();

    it("has for each address that a container may speak from a neighbour and a route from the parent's address", async () => {
      await site.driver.createNetwork(network);
      await site.driver.createEndpoint(endpointOf(network, 2));
      await site.driver.createEndpoint(endpointOf(network, 3));
      assert.deepEqual(await routes(), [
        "10.1.0.2 from 10.1.0.200",
        "10.1.0.3 from 10.1.0.200",
        "fd01::2 from fd01::200",
        "fd01::3 from fd01::200",
        // What a router's advertisement would give them.
        "fd01::42:aff:fe01:2 from fd01::200",
        "fd01::42:aff:fe01:3 from fd01::200",
      ]);
      assert.deepEqual(await neighbours(), [
        "10.1.0.2 02:42:0a:01:00:02 PERMANENT",
        "10.1.0.3 02:42:0a:01:00:03 PERMANENT",
        "fd01::2 02:42:0a:01:00:02 PERMANENT",
        "fd01::3 02:42:0a:01:00:03 PERMANENT",
        "fd01::42:aff:fe01:2 02:42:0a:01:00:02 PERMANENT",
        "fd01::42:aff:fe01:3 02:42:0a:01:00:03 PERMANENT",
      ]);
      assert.deepEqual(await ipAddresses(SHIM), ["fd01::200/128"]);
      assert.equal(readSysctl(`net/ipv4/conf/${SHIM}/arp_filter`), "1");
      assert.equal(readSysctl(`net/ipv6/conf/${SHIM}/accept_ra`), "0");
      await site.driver.deleteEndpoint(network.id, id(2));
      assert.deepEqual(await routes(), [
        "10.1.0.3 from 10.1.0.200",
        "fd01::3 from fd01::200",
        "fd01::42:aff:fe01:3 from fd01::200",
      ]);
      await site.driver.deleteEndpoint(network.id, id(3));
      await until("the host's own link to go", async () => (await ipLink(SHIM)) === undefined);
    });

    it("is refused to a container whose MAC another one or the parent has, by its name", async () => {
      await host.joined(network);
      const before = await hostState();
      const { mac } = (site.records()[`endpoint/${network.id}/${id(2)}`] ?? {}) as { mac: string };
      for (const taken of [mac, "02:00:00:00:00:01"])
        await assert.rejects(
          site.driver.createEndpoint({ network: network.id, id: id(3), ipv4: "10.1.0.3/16", mac: taken }),
          new RegExp(`^ConflictError: MAC address ${taken} is taken on wire0; choose another`),
        );
      assert.deepEqual(await hostState(), before);
    });

    it("comes back when the host's own link is renamed", async () => {
      await host.joined(network);
      const before = [await routes(), await neighbours(), await ipAddresses(SHIM)];
      await ip(`link set ${SHIM} down`, `link set ${SHIM} name emil`, "link set emil up");
      await site.reconcile();
      assert.equal(await ipLink("emil"), undefined);
      assert.deepEqual([await routes(), await neighbours(), await ipAddresses(SHIM)], before);
      assert.deepEqual(await site.reconcile(), {});
      assert.deepEqual([...site.reconciler.health.degraded], []);
    });

    it("answers a container by ARP also on a host that does so only for addresses of the link it is asked on", async () => {
      const all = "net/ipv4/conf/all/arp_ignore";
      const trouble = () => site.reconciler.health.degraded.get(`network ${network.id}`);
      try {
        await setSysctl(all, "1");
        const sandbox = await host.joined(network);
        assert.deepEqual(await ipAddresses(SHIM), ["10.1.0.200/32", "fd01::200/128"]);
        await run(["nsenter", `--net=${sandbox.path}`, "bash", "-c", "echo >/dev/udp/10.1.0.200/9"]);
        const { address: mac = "" } = (await ipLink(SHIM)) ?? {};
        await until("an answer", async () => (await sandbox.ip("neigh show 10.1.0.200")).includes(mac));
        await setSysctl(all, "2");
        await site.reconcile();
        assert.match(
          trouble() ?? "",
          /^host_access: with net\.ipv4\.conf\.all\.arp_ignore=2 .* 0 and 1 will do$/,
        );
      } finally {
        await setSysctl(all, "0");
      }
      await site.reconcile();
      assert.equal(trouble(), undefined);
      assert.deepEqual(await ipAddresses(SHIM), ["fd01::200/128"]);
    });

    it("leaves what leads to an address alone when one that had it before is deleted", async () => {
      await site.driver.createNetwork(network);
      const former = endpointOf(network, 2);
      await site.driver.createEndpoint(former);
      await site.driver.createEndpoint({ ...former, id: id(3) });
      const before = [await routes(), await neighbours()];
      await site.driver.deleteEndpoint(network.id, former.id);
      assert.deepEqual([await routes(), await neighbours()], before);
      await site.driver.deleteEndpoint(network.id, id(3));
      assert.deepEqual([await routes(), await neighbours()], [[], []]);
    });

    it("refuses a container whose address somebody else has a route for, and leaves that alone", async () => {
      await site.driver.createNetwork(network);
      await ip("route add 10.1.0.2/32 dev wire1");
      await assert.rejects(
        site.driver.createEndpoint(endpointOf(network, 2)),
        /route 10\.1\.0\.2\/32 exists and does not lead to tsm/,
      );
      assert.match((await run(["ip", "route", "show", "10.1.0.2/32"])).stdout, /dev wire1/);
    });
  });

  describe("host access by IPv6", () => {
    const network = NETWORKS["dual stack with host access"] ?? assert.fail();
    const sources = async () => (await routes()).filter((route) => route.includes("fd01::2"));

    it("comes from an address that lasts, and not from a newer one that does not", async () => {
      await ip("address add fd01::53/128 dev wire0 nodad preferred_lft 0");
      await site.driver.createNetwork(network);
      await site.driver.createEndpoint(endpointOf(network));
      assert.match((await sources()).join(), /fd01::200/);
    });

    it("takes no address of the host's that somebody else has", async () => {
      await ip("address add fd01::99/64 dev wire1 nodad");
      await ip("address add fd01::99/64 dev wire0");
      await until("the other is heard", async () =>
        (await run(["ip", "address", "show", "dev", "wire0", "dadfailed"])).stdout.includes("fd01::99"),
      );
      await site.driver.createNetwork(network);
      await site.driver.createEndpoint(endpointOf(network));
      assert.match((await sources()).join(), /fd01::200/);
      assert.deepEqual(
        (await ipAddresses(SHIM)).filter((address) => address.includes("fd01::99")),
        [],
      );
    });
  });

  describe("host access that the host's own routing is in the way of", () => {
    const network = NETWORKS["IPv4 only with host access"] ?? assert.fail();
    const trouble = () => site.reconciler.health.degraded.get(`network ${network.id}`) ?? "";

    for (const [what, ...rule] of [
      ["for everybody", "pref", "5270"],
      ["for who speaks from the host's address", "from", "10.1.0.200"],
    ])
      it(`is told of, and nothing is repaired again and again, where a rule leads elsewhere ${what ?? ""}`, async () => {
        await ip("route add 10.1.0.0/16 dev wire0 table 52", `rule add ${rule.join(" ")} lookup 52`);
        try {
          await site.driver.createNetwork(network);
          await site.driver.createEndpoint(endpointOf(network));
          await site.reconcile();
          assert.deepEqual(await site.reconcile(), {});
          assert.match(trouble(), /^host_access: packets .*to 10\.1\.0\.2 do not go by tsm.*\(ip rule\)$/);
        } finally {
          await ip(`rule del ${rule.join(" ")} lookup 52`, "route flush table 52");
        }
        assert.deepEqual(await site.reconcile(), {});
        assert.equal(trouble(), "");
      });

    it("is not told of where nothing but the route was missing", async () => {
      await site.driver.createNetwork(network);
      await site.driver.createEndpoint(endpointOf(network));
      await ip("route del 10.1.0.2/32");
      await site.reconcile();
      assert.equal(trouble(), "");
      assert.deepEqual(await site.reconcile(), {});
    });

    it("is refused to a container that is given the host's own address, in words that do no harm", async () => {
      await ip("address add 10.1.0.2/16 dev wire0");
      await site.driver.createNetwork(network);
      await assert.rejects(
        site.driver.createEndpoint(endpointOf(network)),
        /^ConflictError: 10\.1\.0\.2 is the host's own address; reserve it for the host/,
      );
    });
  });

  describe("a container's link", () => {
    const network = NETWORKS["dual stack with host access"] ?? assert.fail();
    const endpoint = endpointOf(network, 2);

    it("is made again inside the sandbox, as the engine had it, when its parent was gone", async () => {
      const sandbox = await host.joined(network);
      const before = await sandbox.describe();
      await ip("link delete wire0");
      assert.deepEqual(await sandbox.links(), ["lo"]);
      await site.reconcile();
      assert.deepEqual(await sandbox.links(), ["lo"]);
      assert.equal(site.reconciler.health.degraded.get(`network ${network.id}`), "parent wire0 is gone");
      await plugWire();
      assert.ok(((await site.reconcile())["link"] ?? 0) >= 1);
      assert.deepEqual(await sandbox.describe(), before);
      assert.equal(site.reconciler.health.degraded.size, 0);
      assert.deepEqual(await site.reconcile(), {});
    });

    it("has the settings again that were asked for", async () => {
      const sysctls = "net.ipv6.conf.IFNAME.accept_ra=0,net.ipv4.conf.ifname.log_martians=1";
      await site.driver.createNetwork(network);
      await site.driver.createEndpoint({ ...endpoint, sysctls });
      const sandbox = await host.sandbox();
      await site.driver.join(network.id, endpoint.id, sandbox.path);
      await sandbox.take(endpoint, "eth0");
      await ip("link delete wire0");
      await plugWire();
      await site.reconcile();
      const settings = ["ipv6/conf/eth0/accept_ra", "ipv4/conf/eth0/log_martians"];
      const { stdout } = await run([
        ...["nsenter", `--net=${sandbox.path}`, "cat"],
        ...settings.map((setting) => `/proc/sys/net/${setting}`),
      ]);
      assert.equal(stdout, "0\n1\n");
    });

    it("is back within a second when somebody deletes it there, logged and counted", async function () {
      // As below.
      this.retries(2);
      const sandbox = await host.joined(network);
      const before = await sandbox.describe();
      await site.reconciler.start();
      const start = Date.now();
      await sandbox.ip("link delete eth0");
      await until("it is there again", async () => (await sandbox.links()).includes("eth0"));
      await until("it is as it was", async () => isDeepStrictEqual(await sandbox.describe(), before));
      assert.ok(site.repairedAt - start < 1000, `it took ${String(site.repairedAt - start)} ms`);
      assert.equal(site.reconciler.health.drift.get("link"), 1);
    });

    it("is not made a second time where somebody in the container moved it on, but with its parent", async () => {
      const sandbox = await host.joined(network);
      const before = await sandbox.describe();
      const nested = await host.sandbox();
      await site.reconcile();
      await sandbox.ip("link set eth0 down");
      await sandbox.ip("link set eth0 address 02:00:00:00:00:77");
      await sandbox.ip(`link set eth0 netns ${String(nested.pid)}`);
      assert.deepEqual(await site.reconcile(), {});
      await site.restart();
      assert.deepEqual(await site.reconcile(), {});
      assert.deepEqual([await sandbox.links(), await nested.links()], [["lo"], ["eth0", "lo"]]);
      await ip("link delete wire0");
      await plugWire();
      await site.reconcile();
      assert.deepEqual([await sandbox.links(), await nested.links()], [["eth0", "lo"], ["lo"]]);
      assert.deepEqual(await sandbox.describe(), before);
    });

    it("is made anew where a daemon that was killed left half of it", async () => {
      const sandbox = await host.joined(network);
      const before = await sandbox.describe();
      await ip("link delete wire0");
      await plugWire();
      await ip(
        `link add link wire0 name half netns ${String(sandbox.pid)} address ${before.mac} type macvlan mode bridge`,
      );
      await sandbox.ip("link set half group 29811");
      // What the container has of a bridge network, and what is being made for another macvlan network.
      await sandbox.ip("link add eth1 type veth peer name far");
      await ip(`link add link wire0 name other netns ${String(sandbox.pid)} type macvlan mode bridge`);
      for (const name of ["eth1", "other"]) await sandbox.ip(`link set ${name} group 29811`);
      await site.reconcile();
      assert.deepEqual(await sandbox.links(), ["eth0", "eth1", "far", "lo", "other"]);
      assert.deepEqual(await sandbox.describe(), before);
    });

    it("is taken away again, and told of, if it cannot be set up as it was", async () => {
      const sandbox = await host.joined(network);
      const before = await sandbox.describe();
      await ip("link delete wire0");
      await plugWire();
      // Of two macvlans with one MAC the kernel brings up the first.
      await ip(`link add link wire0 name rival address ${before.mac} type macvlan`, "link set rival up");
      await site.reconcile();
      assert.deepEqual(await sandbox.links(), ["lo"]);
      const owner = `endpoint ${endpoint.id}`;
      assert.match(site.reconciler.health.degraded.get(owner) ?? "", /ip link set eth0: EADDRINUSE/);
      await ip("link delete rival");
      await site.reconcile();
      assert.deepEqual(await sandbox.describe(), before);
      assert.equal(site.reconciler.health.degraded.size, 0);
    });

    it("has another number if that is what is free, and no default route beside another network's", async () => {
      const sandbox = await host.joined(network);
      await ip("link delete wire0");
      await sandbox.ip("link add eth0 type veth peer name other");
      await sandbox.ip("link set eth0 up");
      await sandbox.ip("address add 192.0.2.2/24 dev eth0");
      await sandbox.ip("route add default via 192.0.2.1");
      await plugWire();
      await site.reconcile();
      assert.deepEqual(await sandbox.links(), ["eth0", "eth1", "lo", "other"]);
      const { routes } = await sandbox.describe("eth1");
      assert.deepEqual(routes, ["default via fd01::1"]);
    });

    it("has its container's default route again, whichever of two is made again first", async () => {
      await ip("link add wire2 type veth peer name wire3", "link set wire2 up", "link set wire3 up");
      const one = { ...DEFAULTS, ipv6: [], options: ON_PARENT };
      const pool = { subnet: "10.2.0.0/16", gateway: "10.2.0.1/16", aux: {} };
      const two = { ...one, id: id(9), ipv4: [pool], options: { ...ON_PARENT, parent: "wire2" } };
      const sandbox = await host.sandbox();
      for (const [each, end, name] of [
        [one, endpointOf(one, 2), "eth0"],
        [two, { network: two.id, id: id(19), ipv4: "10.2.0.2/16" }, "eth1"],
      ] as const) {
        await site.driver.createNetwork(each);
        await site.driver.createEndpoint(end);
        await site.driver.join(each.id, end.id, sandbox.path);
        await sandbox.ip("route flush default");
        await sandbox.take(end, name);
      }
      await site.reconcile();
      const leads = async () => {
        assert.match(await sandbox.ip("route show default"), /^default via 10\.2\.0\.1 dev eth1[^\n]*\n$/);
      };
      await leads();
      await ip("link delete wire0", "link delete wire2");
      await plugWire();
      await site.reconcile();
      assert.deepEqual(await sandbox.links(), ["eth0", "lo"]);
      await ip("link add wire2 type veth peer name wire3", "link set wire2 up", "link set wire3 up");
      await site.reconcile();
      await leads();
    });

    it("has the number that it had, whichever of two is made again first", async () => {
      const other = { ...network, id: id(7) };
      const both = [
        { of: network, endpoint: endpointOf(network, 3), name: "eth1" },
        { of: other, endpoint: { ...endpointOf(other, 2), network: other.id }, name: "eth0" },
      ] as const;
      const sandbox = await host.sandbox();
      for (const { of } of both) await site.driver.createNetwork(of);
      // The network that was made last, and is looked at last, has the container's first link.
      for (const { of, endpoint, name } of both.toReversed()) {
        await site.driver.createEndpoint(endpoint);
        await site.driver.join(of.id, endpoint.id, sandbox.path);
        await ip(`link set ${linkOf(name === "eth0" ? 2 : 3)} netns ${String(sandbox.pid)} name ${name}`);
        await sandbox.ip(`link set ${name} up`);
      }
      const macs = async () => [(await sandbox.describe("eth0")).mac, (await sandbox.describe("eth1")).mac];
      const before = await macs();
      await site.reconcile();
      await ip("link delete wire0");
      await plugWire();
      await site.reconcile();
      assert.deepEqual(await macs(), before);
    });

    it("has the name that the engine gave it, also where a lower number is free, until the container leaves", async function () {
      // As below.
      this.retries(2);
      await site.reconciler.start();
      const sandbox = await host.joined(network, "eth1");
      const before = await sandbox.describe("eth1");
      const known = () => (site.records()[`endpoint/${network.id}/${endpoint.id}`] as Endpoint).ifname;
      const joinedAt = Date.now();
      await until("its name to be on record", () => known() === "eth1");
      assert.ok(Date.now() - joinedAt < 500, `it took ${String(Date.now() - joinedAt)} ms`);
      await ip("link delete wire0");
      await plugWire();
      await until("it is as it was", async () => isDeepStrictEqual(await sandbox.describe("eth1"), before));
      await site.driver.leave(network.id, endpoint.id);
      assert.equal(known(), undefined);
    });

    it("is a stand-in without carrier while there is no parent, and replaced under the same name", async () => {
      await site.driver.createNetwork(network);
      await ip("link delete wire0");
      const mac = await site.driver.createEndpoint(endpoint);
      const standIn = await ipLink(CONTAINER_END);
      assert.equal(standIn?.linkinfo?.info_kind, "veth");
      assert.equal(standIn.address, mac);
      const sandbox = await host.sandbox();
      await site.driver.join(network.id, endpoint.id, sandbox.path);
      await sandbox.take(endpoint, "lan7");
      assert.deepEqual(await site.reconcile(), {});
      await plugWire();
      await site.reconcile();
      const { kind, flags } = await sandbox.describe("lan7");
      assert.equal(kind, "macvlan");
      assert.ok(flags.includes("LOWER_UP"));
      assert.equal(await ipLink(`tsh${id(2).slice(0, 12)}`), undefined);
      await site.driver.deleteEndpoint(network.id, endpoint.id);
      await site.driver.deleteNetwork(network.id);
      assert.deepEqual(await sandbox.links(), ["lo"]);
    });

    it("is left to the engine once the container has left", async () => {
      const sandbox = await host.joined(network);
      await site.driver.leave(network.id, endpoint.id);
      await sandbox.ip("link delete eth0");
      assert.deepEqual(await site.reconcile(), {});
      assert.deepEqual(await sandbox.links(), ["lo"]);
      assert.equal(await ipLink(CONTAINER_END), undefined);
    });

    for (const mode of ["bridge", "passthru"])
      it(`goes with its endpoint from a sandbox that runs on where the engine has another under its path: ${mode}`, async () => {
        const options = { backend: "macvlan", parent: PARENT, macvlan_mode: mode };
        await site.driver.createNetwork({ ...network, options });
        await site.driver.createEndpoint(endpoint);
        const [sandbox, other] = [await host.sandbox(), await host.sandbox()];
        await site.driver.join(network.id, endpoint.id, other.path);
        await sandbox.take(endpoint, "eth0");
        await site.driver.leave(network.id, endpoint.id);
        await site.driver.deleteEndpoint(network.id, endpoint.id);
        assert.deepEqual(await sandbox.links(), ["lo"]);
        assert.deepEqual(await other.links(), ["lo"]);
      });

    it("is nothing to repair in a sandbox that is gone or not there yet", async () => {
      const sandbox = await host.joined(network);
      await sandbox.end();
      assert.deepEqual(await site.reconcile(), {});
      assert.equal(site.reconciler.health.degraded.size, 0);
    });

    it("follows the parent's MTU inside the sandbox, up and down, but not beyond the option", async () => {
      const limited = {
        ...network,
        options: { ...network.options, "com.docker.network.driver.mtu": "1450" },
      };
      const sandbox = await host.joined(limited);
      for (const [parent, expected] of [
        [1400, 1400],
        [9000, 1450],
      ]) {
        await ip(`link set wire0 mtu ${String(parent)}`);
        await site.reconcile();
        assert.equal((await sandbox.describe()).mtu, expected);
      }
    });
  });

  describe("Announcer", () => {
    it("tells the neighbours of a container's addresses, if the engine does not", async () => {
      const network = NETWORKS["dual stack"] ?? assert.fail();
      const endpoint = endpointOf(network, 2);
      await site.driver.createNetwork(network);
      await site.driver.createEndpoint(endpoint);
      const [sandbox, neighbour] = [await host.sandbox(), await host.sandbox()];
      await ip(`link set wire1 netns ${String(neighbour.pid)}`);
      await neighbour.ip("address add 10.1.0.99/16 dev wire1");
      await neighbour.ip("address add fd01::99/64 dev wire1 nodad");
      await neighbour.ip("link set wire1 up");
      const former = "lladdr 02:00:00:00:00:99 dev wire1 nud reachable";
      for (const address of ["10.1.0.2", "fd01::2"]) await neighbour.ip(`neigh replace ${address} ${former}`);
      await site.driver.join(network.id, endpoint.id, sandbox.path);
      const joined = { ...endpoint, mac: "", createdAt: 0, sandbox: sandbox.path };
      const known = async () => {
        const { stdout } = await run([
          "nsenter",
          `--net=${neighbour.path}`,
          "ip",
          "neigh",
          "show",
          "dev",
          "wire1",
        ]);
        return stdout.split("\n").filter((line) => line.includes("02:42:0a:01:00:02")).length;
      };
      const announcers = ["28.5.2+dfsg4", "26.1.5"].map(
        (version) => new Announcer({ version: async () => version }, memoryLog().log),
      );
      try {
        announcers[0]?.moved(joined);
        // It is told before the engine has brought the link up, as it is in life.
        await sandbox.take(endpoint, "eth0");
        await sleep(300);
        assert.equal(await known(), 0);
        announcers[1]?.moved(joined);
        await until("both addresses to be known", async () => (await known()) === 2);
      } finally {
        for (const announcer of announcers) announcer.stop();
      }
    });
  });

  describe("what leads from the host to a container", () => {
    const network = NETWORKS["dual stack with host access"] ?? assert.fail();
    const setting = `net/ipv4/conf/${SHIM}/arp_filter`;
    /** What somebody does by hand, and as what it is counted. */
    const damages: Readonly<Record<string, readonly [drift: string, act: () => Promise<unknown>]>> = {
      "an IPv4 neighbour deleted": ["neighbour", () => ip(`neigh del 10.1.0.2 dev ${SHIM}`)],
      "an IPv6 neighbour deleted": ["neighbour", () => ip(`neigh del fd01::2 dev ${SHIM}`)],
      "every neighbour deleted": [
        "neighbour",
        () => ip(`neigh del 10.1.0.2 dev ${SHIM}`, `neigh del fd01::2 dev ${SHIM}`),
      ],
      "an IPv4 route deleted": ["route", () => ip(`route del 10.1.0.2/32 dev ${SHIM}`)],
      "an IPv6 route deleted": ["route", () => ip(`route del fd01::2/128 dev ${SHIM}`)],
      "its address deleted": ["address", () => ip(`addr del fd01::200/128 dev ${SHIM}`)],
      "the link set down": ["link", () => ip(`link set ${SHIM} down`)],
      "the link deleted": ["link", () => ip(`link delete ${SHIM}`)],
      "its setting changed": ["sysctl", () => setSysctl(setting, "0")],
      "its rules flushed": ["rules", () => flushRules({ chains: false })],
    };

    for (const [what, [drift, act]] of Object.entries(damages))
      it(`is back within a second, logged and counted: ${what}`, async function () {
        // A second is short on a machine that does other things; one that is always late still fails.
        this.retries(2);
        await site.driver.createNetwork(network);
        await site.driver.createEndpoint(endpointOf(network, 2));
        const made = { ...(await hostState()), setting: readSysctl(setting) };
        await site.reconciler.start();
        await act();
        const start = Date.now();
        await until("it is repaired", async () => {
          if (!site.reconciler.health.drift.has(drift)) return false;
          assert.deepEqual({ ...(await hostState()), setting: readSysctl(setting) }, made);
          return true;
        });
        assert.ok(site.repairedAt - start < 1000, `it took ${String(site.repairedAt - start)} ms`);
        const told = site.lines.filter(({ msg, kind }) => msg === "drift repaired" && kind === drift);
        assert.ok(told.length > 0 && told.every(({ what: text }) => String(text).length > drift.length));
      });
  });

  describe("a parent that is renamed", () => {
    const network = NETWORKS["dual stack with host access"] ?? assert.fail();
    const trouble = () => site.reconciler.health.degraded.get(`network ${network.id}`);

    it("is told of as gone within a second, and again as there, and all that sits on it goes on as it was", async function () {
      // A second is short on a machine that does other things; one that is always late still fails.
      this.retries(2);
      const sandbox = await host.joined(network);
      await site.reconciler.start();
      const before = { ...(await leading()), inside: await sandbox.describe() };
      for (let turn = 0; turn < 2; turn += 1)
        for (const [from, to, expected] of [
          [PARENT, "away", `parent ${PARENT} is gone`],
          ["away", PARENT, undefined],
        ] as const) {
          await ip(`link set ${from} name ${to}`);
          await until(`a parent called ${to}`, () => trouble() === expected, { timeoutMs: 1000 });
          await site.reconciler.everything();
          assert.deepEqual({ ...(await leading()), inside: await sandbox.describe() }, before);
        }
      assert.equal(site.reconciler.health.repairs, 0);
    });

    it("is told of within a second where nothing sits on it yet", async function () {
      this.retries(2);
      await site.reconciler.start();
      await site.driver.createNetwork(network);
      await ip(`link set ${PARENT} name away`);
      await until("the loss to be noticed", () => trouble() === `parent ${PARENT} is gone`, {
        timeoutMs: 1000,
      });
    });

    it("has its containers spoken to from an address that it is given meanwhile", async () => {
      await site.driver.createNetwork(network);
      await site.driver.createEndpoint(endpointOf(network));
      await site.reconciler.start();
      await ip(`link set ${PARENT} name away`);
      await until("the loss to be noticed", () => trouble() === `parent ${PARENT} is gone`);
      await ip("address del 10.1.0.200/16 dev away", "address add 10.1.0.201/16 dev away");
      await until("the new source", async () => (await routes()).includes("10.1.0.2 from 10.1.0.201"));
    });

    async function leading(): Promise<object> {
      return { routes: await routes(), neighbours: await neighbours(), addresses: await ipAddresses(SHIM) };
    }
  });

  describe("a parent whose name another link takes", () => {
    const network = NETWORKS["dual stack with host access"] ?? assert.fail();
    const owner = `endpoint ${id(2)}`;
    const degraded = () => Object.fromEntries(site.reconciler.health.degraded);
    /** The name of the link below, as iproute2 has it where both are in one namespace. */
    const below = async (name: string) =>
      /@(\S+):/.exec((await run(["ip", "link", "show", name])).stdout)?.[1];
    const swap = async () => {
      await ip("link set wire0 name old", "link set new name wire0");
    };

    beforeEach(async () => {
      await ip(
        "link add new type veth peer name wire3",
        "link set new up",
        "link set wire3 up",
        "address add 10.1.0.201/16 dev new",
      );
    });

    it("has the host's own link made again on it, at once, with what leads to every container", async () => {
      await site.driver.createNetwork(network);
      for (const number of [2, 3]) await site.driver.createEndpoint(endpointOf(network, number));
      await site.reconciler.start();
      await swap();
      await until("the host's own link on the new one", async () =>
        isDeepStrictEqual(
          [await below(SHIM), ...(await routes()).slice(0, 2), (await neighbours()).length],
          ["wire0", "10.1.0.2 from 10.1.0.201", "10.1.0.3 from 10.1.0.201", 6],
        ),
      );
      const [told] = site.lines.filter(({ what }) => String(what).includes(SHIM));
      assert.equal(told?.["before"], "link old");
      // No container is in them yet.
      for (const number of [2, 3]) assert.equal(await below(linkOf(number)), "wire0");
      // The new one has no IPv6 address for the host.
      assert.match(degraded()[`network ${network.id}`] ?? "", /has no address in fd01::/);
    });

    it("leaves a running container's link where it is, and that is told of once, until it is as before", async () => {
      const sandbox = await host.joined(network);
      const inside = async () => ({
        ...(await sandbox.describe()),
        link: await sandbox.ip("link show eth0"),
      });
      const before = await inside();
      await site.reconciler.start();
      await swap();
      await until("it is told of", () => degraded()[owner] !== undefined);
      assert.equal(
        degraded()[owner],
        "link eth0 of the container sits on old, and another link is called wire0 now; restart the container, or give both links their names back",
      );
      await site.reconcile();
      await site.driver.createEndpoint(endpointOf(network, 3));
      assert.equal(await below(linkOf(3)), "wire0");
      assert.deepEqual(await inside(), before);
      assert.equal(site.lines.filter((line) => line["owner"] === owner).length, 1);
      await ip("link set wire0 name new", "link set old name wire0");
      await until("all is as before", () => isDeepStrictEqual(degraded(), {}));
      await until("the host's own link, too", async () => (await below(SHIM)) === "wire0");
      assert.deepEqual(await inside(), before);
    });

    it("gets a container that is started anew", async () => {
      const sandbox = await host.joined(network);
      await swap();
      await site.reconcile();
      assert.notEqual(degraded()[owner], undefined);
      await site.driver.leave(network.id, id(2));
      await site.driver.deleteEndpoint(network.id, id(2));
      assert.deepEqual(await sandbox.links(), ["lo"]);
      await site.driver.createEndpoint(endpointOf(network, 2));
      await site.driver.join(network.id, id(2), sandbox.path);
      await sandbox.take(endpointOf(network, 2), "eth0");
      await site.reconcile();
      assert.equal(degraded()[owner], undefined);
      assert.deepEqual(await site.reconcile(), {});
    });
  });

  it("has links on a parent that is a macvlan itself, where the kernel puts them, and follows its MTU", async () => {
    await ip(`link add own link ${PARENT} type macvlan mode bridge`, "link set own up");
    await ip("address add 10.1.0.201/16 dev own", "address add fd01::201/64 dev own nodad");
    await ip("link set own mtu 1450");
    const network = { ...DEFAULTS, options: { ...ON_PARENT, parent: "own", host_access: "on" } };
    const sandbox = await host.joined(network);
    assert.deepEqual(await site.reconcile(), {});
    await ip("link set own mtu 1400");
    assert.deepEqual(await site.reconcile(), { link: 2 });
    assert.equal((await sandbox.describe()).mtu, 1400);
    assert.equal((await ipLink(SHIM))?.mtu, 1400);
    assert.deepEqual(Object.fromEntries(site.reconciler.health.degraded), {});
  });

  describe("events", () => {
    const network = NETWORKS["dual stack with host access"] ?? assert.fail();

    for (const name of ["the-lan", "the-lan-that-has-a-long-name"])
      it(`of a parent that was asked for by another of its names are the network's: ${name}`, async () => {
        await ip(`link property add dev wire0 altname ${name}`);
        await site.reconciler.start();
        await site.driver.createNetwork({ ...network, options: { ...network.options, parent: name } });
        await ip("link set wire0 down");
        const trouble = () => site.reconciler.health.degraded.get(`network ${network.id}`);
        await until("the parent to be seen down", () => trouble() === "parent wire0 is down");
      });

    it("of an address that is there already, as a router's advertisements are, have nothing looked at", async () => {
      await site.driver.createNetwork(network);
      await site.driver.createEndpoint(endpointOf(network));
      await site.reconciler.start();
      let lifetime = 2000;
      const looked = async () => {
        lifetime -= 10;
        site.faults.plan();
        const left = `valid_lft ${String(lifetime)} preferred_lft ${String(lifetime)}`;
        await ip(`address change 10.1.0.200/16 dev wire0 ${left}`);
        await sleep(LOOK_MS);
        return site.faults.calls.length > 0;
      };
      // What was made before is looked at first, however long that takes.
      await until("nothing to be looked at", async () => !(await looked()));
      await ip("address add 10.1.0.201/16 dev wire0");
      await until("a new one to be looked at", () => site.faults.calls.length > 0);
    });

    it("tell that the engine has taken a link, and that a parent is gone and back", async () => {
      site.engineKnows = [id(1), id(2)];
      await site.reconciler.start();
      await site.driver.createNetwork(network);
      await site.driver.createEndpoint(endpointOf(network, 2));
      const sandbox = await host.sandbox();
      await site.driver.join(network.id, id(2), sandbox.path);
      await sandbox.take(endpointOf(network, 2), "eth0");
      await until("the move to be noticed", () => site.moved.includes(id(2)));
      await ip("link delete wire0");
      const trouble = () => site.reconciler.health.degraded.get(`network ${network.id}`);
      await until("the loss to be noticed", () => trouble() === "parent wire0 is gone");
      await plugWire();
      await until("the container to have its link again", async () =>
        (await sandbox.links()).includes("eth0"),
      );
      await until("the network to be well", () => trouble() === undefined);
      await ip(`link set wire0 down`);
      await until("the parent to be seen down", () => trouble() === "parent wire0 is down");
    });
  });
});

/** The routes by the host's own link. */
async function routes(): Promise<string[]> {
  const all = await Promise.all(
    ["-4", "-6"].map(async (family) => {
      const { stdout } = await run(["ip", "-j", family, "route", "show", "proto", "116"]);
      return JSON.parse(stdout || "[]") as { dst: string; dev: string; prefsrc?: string }[];
    }),
  );
  return all.flat().map(({ dst, dev, prefsrc }) => {
    assert.equal(dev, SHIM);
    return `${dst} from ${prefsrc ?? "nowhere"}`;
  });
}

async function neighbours(): Promise<string[]> {
  const { stdout } = await run(["ip", "-j", "neigh", "show", "nud", "permanent"]);
  const all = JSON.parse(stdout || "[]") as { dst: string; dev: string; lladdr: string; state: string[] }[];
  return all
    .filter(({ dev }) => dev === SHIM)
    .map(({ dst, lladdr, state }) => `${dst} ${lladdr} ${state.join()}`)
    .sort();
}
