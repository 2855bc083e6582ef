import assert from "node:assert/strict";
import { MacvlanOptions } from "../../../src/backends/macvlan-options.ts";
import { MacvlanBackend } from "../../../src/backends/macvlan.ts";
import type { Firewall } from "../../../src/firewall/firewall.ts";
import type { Endpoint, Network } from "../../../src/model.ts";
import type { Step } from "../../../src/step.ts";
import { FakeLinks } from "../../support/fake-links.ts";
import { id } from "../../support/requests.ts";

const V4 = { subnet: "192.0.2.0/24", gateway: "192.0.2.1/24", aux: {} };
const V6 = { subnet: "fd00::/64", gateway: "fd00::1/64", aux: {} };
const ENDPOINT: Endpoint = {
  id: id(9),
  network: id(1),
  ipv4: "192.0.2.9/24",
  ipv6: "fd00::9/64",
  mac: "02:42:c0:00:02:09",
  createdAt: 0,
};

/** Rules are looked at, and never made: these tests run in the machine's own namespace. */
const NO_FIREWALL: Pick<Firewall, "rules"> = {
  rules: (what) => ({ what, apply: () => Promise.resolve(true), revert: () => Promise.resolve() }),
};

type Net = Parameters<MacvlanBackend["network"]>[0];

describe("MacvlanBackend", () => {
  let links: FakeLinks;
  let networks: Network[];
  let endpoints: Endpoint[];
  let backend: MacvlanBackend;

  beforeEach(() => {
    links = new FakeLinks();
    links.plug("lo", { ethernet: false });
    links.plug("eth0");
    networks = [];
    endpoints = [];
    const records = {
      networks: () => networks,
      endpoints: (network: string) => endpoints.filter((endpoint) => endpoint.network === network),
      inSandbox: (sandbox: string) => endpoints.filter((endpoint) => endpoint.sandbox === sandbox),
      endpointRecord: () => assert.fail("nothing is seen in a sandbox here"),
    };
    backend = new MacvlanBackend(links.host, NO_FIREWALL, records);
  });

  function asked(options: Readonly<Record<string, string>>, more: Partial<Network> = {}): Net {
    const parsed = MacvlanOptions.parse({ backend: "macvlan", ...options });
    const rest = { internal: false, ipv4: [V4], ipv6: [V6], found: undefined, createdAt: 0 };
    return { id: id(1), backend: "macvlan", ...rest, ...more, options: parsed } as unknown as Net;
  }

  /** Surveys a network, puts it on record and applies its plan, as the driver does. */
  async function create(
    options: Readonly<Record<string, string>>,
    more: Partial<Network> = {},
  ): Promise<Net> {
    const network = asked(options, more);
    const found = await backend.survey(network, networks);
    const settled: Net = { ...network, found };
    networks.push(settled);
    for (const step of backend.network(settled)) await step.apply();
    return settled;
  }

  async function remove(network: Net): Promise<void> {
    for (const step of backend.network(network).toReversed()) await step.revert();
    networks = networks.filter((other) => other.id !== network.id);
  }

  describe("parent", () => {
    it("is used as it is where it is there: no step of the plan is about it", async () => {
      const network = await create({ parent: "eth0" });
      assert.deepEqual(network.found, { parent: { name: "eth0" } });
      assert.deepEqual(backend.network(network), []);
      assert.deepEqual(backend.parents(network), ["eth0"]);
      assert.deepEqual(links.calls, []);
    });

    it("is a VLAN that is made with the first network and removed with the last", async () => {
      const first = await create({ parent: "eth0.50" });
      assert.deepEqual(texts(backend.network(first)), ["link eth0.50 type vlan id 50"]);
      assert.deepEqual(backend.parents(first), ["eth0.50", "eth0"]);
      const made = links.get("eth0.50");
      assert.ok(made);
      assert.deepEqual(made.vlan, { parent: links.get("eth0")?.index, id: 50 });
      assert.deepEqual([made.alias, made.up], ["tsnet parent eth0.50", true]);
      const second = await create({ parent: "eth0.50" }, { id: id(2) });
      assert.deepEqual(second.found, first.found);
      await remove(first);
      assert.ok(links.get("eth0.50"));
      await remove(second);
      assert.deepEqual(links.calls, ["add eth0.50 vlan", "discard eth0.50"]);
    });

    it("is a VLAN that is left alone where somebody else made it", async () => {
      links.plug("eth0.50", { kind: "vlan" });
      const network = await create({ parent: "eth0.50" });
      assert.deepEqual(network.found, { parent: { name: "eth0.50" } });
      await remove(network);
      assert.ok(links.get("eth0.50"));
      assert.deepEqual(links.calls, []);
    });

    it("is a VLAN that stays down as long as the link below it is", async () => {
      links.plug("eth1", { up: false });
      const network = await create({ parent: "eth1.7" });
      assert.equal(links.get("eth1.7")?.up, false);
      assert.equal(await backend.trouble(network), "parent eth1.7 is down");
      links.plug("eth1", { index: links.get("eth1")?.index ?? 0, up: true });
      for (const step of backend.network(network)) assert.equal(await step.apply(), true);
      assert.equal(links.get("eth1.7")?.up, true);
    });

    it("is a VLAN that is made again, and has the MTU of the link below it", async () => {
      const network = await create({ parent: "eth0.50" });
      links.unplug("eth0.50");
      for (const step of backend.network(network)) assert.equal(await step.apply(), true);
      links.plug("eth0", { index: links.get("eth0")?.index ?? 0, mtu: 9000 });
      for (const step of backend.network(network)) assert.equal(await step.apply(), "mtu 1500");
      assert.equal(links.get("eth0.50")?.mtu, 9000);
      for (const step of backend.network(network)) assert.equal(await step.apply(), false);
    });

    it("is a VLAN that is left alone where somebody else has made it while there was none", async () => {
      const network = await create({ parent: "eth0.50" });
      links.unplug("eth0.50");
      links.plug("eth0.50", { kind: "vlan", mtu: 1400 });
      for (const step of backend.network(network)) assert.equal(await step.apply(), false);
      await remove(network);
      assert.equal(links.get("eth0.50")?.mtu, 1400);
    });

    it("is refused as a VLAN in one line by a kernel without 802.1q", async () => {
      links.kinds = ["macvlan", "dummy"];
      await assert.rejects(create({ parent: "eth0.50" }), {
        code: "unsupported",
        message:
          "parent eth0.50 is not there and cannot be made: this kernel has no 802.1q (CONFIG_VLAN_8021Q)",
      });
    });

    it("is a dummy where none is given, an ifb where the kernel has no dummy, and refused without both", async () => {
      for (const [kinds, kind] of [
        [["macvlan", "dummy", "ifb"], "dummy"],
        [["macvlan", "ifb"], "ifb"],
      ] as const) {
        links.kinds = kinds;
        const network = await create({});
        const name = `tsp${id(1).slice(0, 12)}`;
        assert.deepEqual(network.found, { parent: { name, made: { kind } } });
        assert.equal(links.get(name)?.kind, kind);
        await remove(network);
        assert.equal(links.get(name), undefined);
      }
      links.kinds = ["macvlan"];
      await assert.rejects(create({}), /neither dummy nor ifb .* name one with -o parent=/);
      links.kinds = ["dummy"];
      await assert.rejects(create({}), /this kernel has no macvlan/);
    });

    it("is refused where it cannot be one", async () => {
      links.plug("sw", { kind: "bridge" });
      links.plug("vrf0", { kind: "vrf" });
      links.plug("port", { master: links.get("sw")?.index ?? 0 });
      links.plug("routed", { master: links.get("vrf0")?.index ?? 0 });
      links.plug("ts-own", { kind: "bridge", alias: `tsnet network ${id(5)}` });
      for (const [parent, why] of [
        ["lo", /is not an Ethernet link/],
        ["eth9", /must be an Ethernet link of this host, or LINK\.ID/],
        ["eth9.5", /must be an Ethernet link of this host, or LINK\.ID/],
        ["eth0.5.6", /must be an Ethernet link of this host, or LINK\.ID/],
        ["eth0.0", /from 1 to 4094/],
        ["eth0.4095", /from 1 to 4094/],
        ["port", /is a port of sw; name that as the parent/],
        ["ts-own", /belongs to network 000005/],
      ] as const)
        await assert.rejects(create({ parent }), why, parent);
      await create({ parent: "routed" });
      await create({ parent: "sw" }, { id: id(2) });
    });

    it("is shared in any mode but passthru", async () => {
      const bridge = await create({ parent: "eth0" });
      await create({ parent: "eth0", macvlan_mode: "private" }, { id: id(2) });
      await create({ parent: "eth0", macvlan_mode: "vepa" }, { id: id(3) });
      await assert.rejects(create({ parent: "eth0", macvlan_mode: "passthru" }, { id: id(4) }), {
        code: "conflict",
        message: /^parent eth0 belongs to network .*passthru/,
      });
      for (const network of [...networks]) await remove(network as Net);
      await create({ parent: "eth0", macvlan_mode: "passthru" });
      await assert.rejects(create({ parent: "eth0" }, { id: id(2) }), /in mode passthru/);
      assert.ok(bridge);
    });

    it("is described by what is wrong with it", async () => {
      const network = await create({ parent: "eth0" });
      assert.equal(await backend.trouble(network), undefined);
      const { index = 0 } = links.get("eth0") ?? {};
      links.plug("eth0", { index, carrier: false });
      assert.equal(await backend.trouble(network), "parent eth0 has no carrier");
      links.plug("eth0", { index, up: false, carrier: false });
      assert.equal(await backend.trouble(network), "parent eth0 is down");
      links.plug("sw", { kind: "bridge" });
      links.plug("eth0", { index, master: links.get("sw")?.index ?? 0 });
      assert.equal(await backend.trouble(network), "parent eth0 is a port of sw, which takes its frames");
      links.unplug("eth0");
      assert.equal(await backend.trouble(network), "parent eth0 is gone");
    });
  });

  describe("options", () => {
    it("allow host_access in mode bridge only, and with an address for the host in every subnet", async () => {
      const options = { parent: "eth0", host_access: "on" };
      await assert.rejects(create({ ...options, macvlan_mode: "vepa" }), /needs macvlan_mode=bridge/);
      await assert.rejects(create(options), /eth0 has no address in 192\.0\.2\.0\/24; .*--aux-address host=/);
      const reserved = { ...V4, aux: { host: "192.0.2.250/24" } };
      await assert.rejects(create(options, { ipv4: [reserved] }), /eth0 has no address in fd00::\/64/);
      await create(options, { ipv4: [reserved], ipv6: [] });
    });

    it("allow no MTU above the parent's", async () => {
      const key = "com.docker.network.driver.mtu";
      await assert.rejects(create({ parent: "eth0", [key]: "1501" }), /no more than the 1500 of parent eth0/);
      await create({ parent: "eth0", [key]: "1500" });
    });
  });

  describe("join", () => {
    it("has the gateway of the pool that each address is from, and no docker_gwbridge without one", async () => {
      const second = { subnet: "198.51.100.0/24", gateway: "198.51.100.254/24", aux: {} };
      const network = await create({ parent: "eth0" }, { ipv4: [second, V4] });
      const link = { name: `tsc${id(9).slice(0, 12)}`, prefix: "eth" };
      assert.deepEqual(backend.join(network, ENDPOINT), {
        link,
        gateway: "192.0.2.1",
        gatewayIPv6: "fd00::1",
      });
      const without = await create(
        { parent: "eth0" },
        { id: id(2), ipv4: [{ subnet: V4.subnet, aux: {} }], ipv6: [] },
      );
      assert.deepEqual(backend.join(without, ENDPOINT), { link, withoutGateway: true });
    });

    it("has no way out of an internal network, nor of one whose parent leads nowhere", async () => {
      const link = { name: `tsc${id(9).slice(0, 12)}`, prefix: "net" };
      const prefix = { "com.docker.network.container_iface_prefix": "net" };
      const internal = await create({ parent: "eth0", ...prefix }, { internal: true });
      assert.deepEqual(backend.join(internal, ENDPOINT), { link });
      const nowhere = await create(prefix, { id: id(2) });
      assert.deepEqual(backend.join(nowhere, ENDPOINT), { link, withoutGateway: true });
    });
  });

  it("has a gateway address reserved, but for a parent that leads nowhere", () => {
    const need = (options: Record<string, string>) =>
      backend.gatewayNeed(backend.options.parse({ backend: "macvlan", ...options }));
    assert.deepEqual(need({ parent: "eth0" }), { skipIPv4: false, skipIPv6: false });
    assert.deepEqual(need({}), { skipIPv4: true, skipIPv6: true });
  });

  it("gives containers of mode passthru the parent's MAC, and no others", async () => {
    const passthru = await create({ parent: "eth0", macvlan_mode: "passthru" });
    assert.equal(await backend.mac(passthru), "02:00:00:00:00:01");
    await remove(passthru);
    assert.equal(await backend.mac(await create({ parent: "eth0" })), undefined);
  });

  it("plans for an endpoint its link, and with host_access the host's own link and what leads to the endpoint", async () => {
    const aux = { host: "192.0.2.250/24" };
    const network = await create({ parent: "eth0", host_access: "on" }, { ipv4: [{ ...V4, aux }], ipv6: [] });
    const { ipv6: _, ...endpoint } = ENDPOINT;
    const shim = `tsm${id(1).slice(0, 12)}`;
    assert.deepEqual(texts(backend.endpoint(network, endpoint)), [
      `link tsc${id(9).slice(0, 12)} type macvlan link eth0`,
      `link ${shim} type macvlan link eth0`,
      `sysctl net/ipv4/conf/${shim}/arp_filter=1`,
      `sysctl net/ipv4/conf/${shim}/arp_ignore=0`,
      `sysctl net/ipv6/conf/${shim}/accept_ra=0`,
      `sysctl net/ipv6/conf/${shim}/disable_ipv6=1`,
      `link ${shim} up`,
      `address of ${shim}`,
      `neighbour 192.0.2.9 lladdr 02:42:c0:00:02:09 dev ${shim}`,
      `route 192.0.2.9/32 dev ${shim}`,
    ]);
    assert.deepEqual(texts(backend.network(network)), [`rules of network ${id(1)}`]);
    const drops = (match: string) => `${match} -m comment --comment tsnet-000001aaaaaa -j DROP`;
    assert.deepEqual(
      backend.rules(network).map(({ family, table, name, spec }) => [family, table, name, spec]),
      [
        [4, "mangle", "TSNET-ARRIVING", drops(`-i ${shim} -m rpfilter --invert`)],
        [4, "mangle", "TSNET-BRIDGES", drops(`-i ${shim} -m conntrack ! --ctstate DNAT`)],
        [4, "mangle", "TSNET-BRIDGES", drops(`-o ${shim} -m conntrack ! --ctstate DNAT`)],
        [4, "mangle", "TSNET-KNOWN", drops(`-i ${shim} -m conntrack ! --ctstate DNAT`)],
        [4, "mangle", "TSNET-KNOWN", drops(`-o ${shim} -m conntrack ! --ctstate DNAT`)],
      ],
    );
  });
});

function texts(steps: readonly Step[]): string[] {
  return steps.map(({ what }) => what);
}
