import assert from "node:assert/strict";
import { withBridgeNetfilter } from "./bridge-netfilter.ts";
import { onEachEngine } from "./each-engine.ts";
import { bridgeOf, interfaces, link } from "./interfaces.ts";
import { EVERYTHING, type Target, countArrivals, pings, send } from "./packets.ts";
import { type Subnets, subnets } from "./site.ts";

onEachEngine("closed networks", (site) => {
  afterEach(() => site.clear());

  it("lets nothing into or out of an internal network but what its containers tell each other", async () => {
    const [inside, outside] = [subnets(), subnets()];
    await network("inside", inside, "--internal");
    await network("outside", outside);
    const [c1, c2, other] = await Promise.all([
      target("c1", "inside"),
      target("c2", "inside"),
      target("other", "outside"),
    ]);
    const near: Target = {
      exec: (...call) => site.neighbour.exec(...call),
      addresses: both(site.neighbourAddress),
    };
    await site.routeFromNeighbour(inside);
    await site.routeFromNeighbour(outside);
    // Even a container that makes itself a way out has none.
    for (const [gateway, family] of [
      [inside.ip(1), "-4"],
      [inside.ip6(1), "-6"],
    ] as const)
      await c1.exec(["ip", family, "route", "add", "default", "via", gateway]);

    assert.deepEqual(await send(c1, { c2, near, other }), { c2: EVERYTHING, near: [], other: [] });
    assert.deepEqual(await send(other, { c1, c2, near }), { c1: [], c2: [], near: EVERYTHING });
    assert.deepEqual(await send(site.neighbour, { c1, c2 }), { c1: [], c2: [] });
    for (const gateway of [inside.ip(1), inside.ip6(1)])
      assert.equal(await pings(c1, gateway), true, gateway);
    await Promise.all(
      [...both(site.address), outside.ip(1), outside.ip6(1)].map(async (address) => {
        assert.equal(await pings(c1, address, { expected: false }), false, address);
        assert.equal(await pings(other, address), true, address);
      }),
    );
  });

  // Older engines give every network an IPv4 subnet.
  if (site.line === "28.5")
    it("lets no IPv4 out of a network that has none, from a container that gives itself an address", async () => {
      const [six, open] = [subnets(), subnets()];
      const id = await site.network("six", "--ipv4=false", "--ipv6", "--subnet", six.v6, "--internal");
      const unprotected = "com.docker.network.bridge.gateway_mode_ipv4=nat-unprotected";
      await site.network("open", "--subnet", open.v4, "-o", unprotected);
      const [inside, other] = await Promise.all([target("inside", "six"), target("other", "open")]);
      const { address: mac } = await link(site, bridgeOf(id));
      for (const command of [
        `address add ${six.ip(2)}/24 dev eth0`,
        `neigh add ${six.ip(1)} lladdr ${mac} dev eth0`,
        `route add default via ${six.ip(1)}`,
      ])
        await inside.exec(["ip", ...command.split(" ")]);
      const byIPv4 = { other: { ...other, addresses: [other.addresses[0] ?? ""] } };
      assert.deepEqual(await send(inside, byIPv4), { other: [] });
      assert.deepEqual(await send(site, byIPv4), { other: ["ping4", "tcp4", "udp4"] });
    });

  it("keeps the containers of a network with enable_icc=false apart, also by way of the gateway", async () => {
    const net = subnets();
    await network("apart", net, "-o", "com.docker.network.bridge.enable_icc=false");
    const [c1, c2] = await Promise.all([target("c1", "apart"), target("c2", "apart")]);
    for (const value of ["0", "1"] as const)
      await withBridgeNetfilter(site, value, async () => {
        assert.deepEqual(await send(c1, { c2 }), { c2: [] }, value);
      });
    for (const [index, gateway] of [net.ip(1), net.ip6(1)].entries()) {
      const length = index === 0 ? 32 : 128;
      const peer = `${c2.addresses[index] ?? ""}/${String(length)}`;
      await c1.exec(["ip", "route", "add", peer, "via", gateway]);
      assert.equal(await pings(c1, gateway), true, gateway);
    }
    assert.deepEqual(await send(c1, { c2 }), { c2: [] });
    for (const address of both(site.neighbourAddress)) assert.equal(await pings(c1, address), true, address);
    assert.deepEqual(await send(site, { c2 }), { c2: EVERYTHING });
  });

  it("gives an isolated network no address on the host, and lets its containers talk", async () => {
    const net = subnets();
    const modes = ["4", "6"].flatMap((family) => [
      "-o",
      `com.docker.network.bridge.gateway_mode_ipv${family}=isolated`,
    ]);
    const id = await network("alone", net, "--internal", ...modes);
    const [c1, c2] = await Promise.all([target("c1", "alone"), target("c2", "alone")]);
    assert.deepEqual((await link(site, bridgeOf(id))).addr_info, []);
    assert.deepEqual(await send(c1, { c2 }), { c2: EVERYTHING });
    assert.deepEqual(await send(site, { c1, c2 }), { c1: [], c2: [] });
    assert.deepEqual(Object.keys(await interfaces(c1)).sort(), ["eth0", "lo"]);
  });

  async function network(name: string, { v4, v6 }: Subnets, ...args: string[]): Promise<string> {
    return await site.network(name, "--ipv6", "--subnet", v4, "--subnet", v6, ...args);
  }

  async function target(name: string, net: string): Promise<Target> {
    const place = await site.run(name, net);
    await countArrivals(place);
    return { exec: place.exec, addresses: both(await site.attachment(name, net)) };
  }
});

function both({ v4, v6 }: { readonly v4: string; readonly v6: string }): string[] {
  return [v4, v6];
}
