import assert from "node:assert/strict";
import { onEachEngine } from "./each-engine.ts";
import { EVERYTHING, type Target, countArrivals, pings, seenAs, send } from "./packets.ts";
import { subnets } from "./site.ts";

onEachEngine("outside", (site) => {
  afterEach(() => site.clear());

  it("hides the containers of a network behind the host's addresses", async () => {
    const c1 = await containerOn({});
    assert.equal(await seenAs(c1, site.neighbourAddress.v4), site.address.v4);
    assert.equal(await seenAs(c1, site.neighbourAddress.v6), site.address.v6);
    for (const address of Object.values(site.neighbourAddress))
      assert.equal(await pings(c1, address), true, address);
    // Who has a route to them does not reach them by it; they are there: the host reaches them.
    assert.deepEqual(await send(site.neighbour, { c1 }), { c1: [] });
    assert.deepEqual(await send(site, { c1 }), { c1: EVERYTHING });
  });

  it("shows the containers' own addresses with enable_ip_masquerade=false, and lets nobody in", async () => {
    const c1 = await containerOn({ enable_ip_masquerade: "false" });
    const [v4, v6] = c1.addresses;
    assert.equal(await seenAs(c1, site.neighbourAddress.v4), v4);
    assert.equal(await seenAs(c1, site.neighbourAddress.v6), v6);
    assert.deepEqual(await send(site.neighbour, { c1 }), { c1: [] });
    assert.deepEqual(await send(site, { c1 }), { c1: EVERYTHING });
  });

  it("routes in gateway mode routed: own addresses outside, and only pings from there", async () => {
    const c1 = await containerOn({ gateway_mode_ipv4: "routed", gateway_mode_ipv6: "routed" });
    const [v4 = "", v6 = ""] = c1.addresses;
    assert.equal(await seenAs(c1, site.neighbourAddress.v4), v4);
    assert.equal(await seenAs(c1, site.neighbourAddress.v6), v6);
    assert.deepEqual(await send(site.neighbour, { c1 }), { c1: ["ping4", "ping6"] });
    assert.equal(await pings(site.neighbour, v4), true);
    assert.equal(await pings(site.neighbour, v6), true);
    assert.deepEqual(await send(site, { c1 }), { c1: EVERYTHING });
  });

  it("takes the gateway mode of each family by itself", async () => {
    const c1 = await containerOn({ gateway_mode_ipv6: "routed" });
    assert.equal(await seenAs(c1, site.neighbourAddress.v4), site.address.v4);
    assert.equal(await seenAs(c1, site.neighbourAddress.v6), c1.addresses[1]);
    assert.deepEqual(await send(site.neighbour, { c1 }), { c1: ["ping6"] });
  });

  it("lets in whoever has a route in gateway mode nat-unprotected", async () => {
    const c1 = await containerOn({
      gateway_mode_ipv4: "nat-unprotected",
      gateway_mode_ipv6: "nat-unprotected",
    });
    assert.deepEqual(await send(site.neighbour, { c1 }), { c1: EVERYTHING });
    assert.equal(await seenAs(c1, site.neighbourAddress.v4), site.address.v4);
  });

  it("lets no other network of the host in, whatever the gateway mode", async () => {
    const modes = ["nat", "nat-unprotected", "routed"].map(async (mode) => {
      const both = { gateway_mode_ipv4: mode, gateway_mode_ipv6: mode };
      return [mode, await containerOn(both, {}, mode)] as const;
    });
    const targets = Object.fromEntries(await Promise.all(modes));
    const others = [subnets(), subnets()].map(({ v4, v6 }) => ["--ipv6", "--subnet", v4, "--subnet", v6]);
    await site.network("other", ...(others[0] ?? []));
    await site.docker("network", "create", ...(others[1] ?? []), "engines");
    const strangers = await Promise.all([site.run("c1", "other"), site.run("c2", "engines")]);
    for (const stranger of strangers)
      assert.deepEqual(await send(stranger, targets), { nat: [], "nat-unprotected": [], routed: [] });
    const all = { nat: EVERYTHING, "nat-unprotected": EVERYTHING, routed: EVERYTHING };
    assert.deepEqual(await send(site, targets), all);
  });

  it("masquerades as host_ipv4 and host_ipv6 say", async () => {
    // Another one for each host: the neighbour remembers whose it was.
    const [v4, v6] = [site.address.v4.replace(/\d+$/, "20$&"), `${site.address.v6}:20`];
    for (const cidr of [`${v4}/24`, `${v6}/64`]) {
      const nodad = cidr.includes(":") ? ["nodad"] : [];
      await site.exec(["ip", "addr", "add", cidr, "dev", "eth0", ...nodad]);
      site.later(() => site.exec(["ip", "addr", "del", cidr, "dev", "eth0"]));
    }
    const c1 = await containerOn({}, { host_ipv4: v4, host_ipv6: v6 });
    assert.equal(await seenAs(c1, site.neighbourAddress.v4), v4);
    assert.equal(await seenAs(c1, site.neighbourAddress.v6), v6);
  });

  /** A container on a new network with these options; the neighbour has a route to it. */
  async function containerOn(
    bridge: Readonly<Record<string, string>>,
    more: Readonly<Record<string, string>> = {},
    name = "blue",
  ): Promise<Target> {
    const net = subnets();
    const options = [
      ...Object.entries(bridge).map(([key, value]) => `com.docker.network.bridge.${key}=${value}`),
      ...Object.entries(more).map(([key, value]) => `com.docker.network.${key}=${value}`),
    ];
    const args = ["--ipv6", "--subnet", net.v4, "--subnet", net.v6];
    await site.network(name, ...args, ...options.flatMap((option) => ["-o", option]));
    const place = await site.run(`on-${name}`, name);
    await countArrivals(place);
    await site.routeFromNeighbour(net);
    const { v4, v6 } = await site.attachment(`on-${name}`, name);
    return { exec: place.exec, addresses: [v4, v6] };
  }
});
