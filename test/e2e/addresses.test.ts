import assert from "node:assert/strict";
import { onEachEngine } from "./each-engine.ts";
import { addresses, bridgeOf, defaultRoutes, link } from "./interfaces.ts";
import { pings } from "./packets.ts";
import { type Place, subnets } from "./site.ts";

onEachEngine("addresses", (site) => {
  afterEach(() => site.clear());

  it("connects the containers of an IPv4 network by address and by name", async () => {
    const id = await site.network("blue");
    const [one] = await Promise.all([site.run("one", "blue"), site.run("two", "blue")]);
    const { v4 } = await site.attachment("two", "blue");
    assert.equal(await pings(one, v4), true);
    assert.match(await pingByName("one", "two"), / \(?[0-9.]+\)?.* 1 received/s);
    assert.match(await pingByName("one", "two.blue"), / 1 received/);
    const [gateway] = addresses(await link(site, bridgeOf(id)));
    assert.equal(await pings(one, bare(gateway)), true);
    assert.deepEqual(await defaultRoutes(one), [`${bare(gateway)} eth0`]);
  });

  it("connects the containers of a dual-stack network by both addresses and by name", async () => {
    const net = subnets();
    await site.network("blue", "--ipv6", "--subnet", net.v4, "--subnet", net.v6);
    const [one] = await Promise.all([site.run("one", "blue"), site.run("two", "blue")]);
    const { v4, v6 } = await site.attachment("two", "blue");
    for (const address of [v4, v6, net.ip(1), net.ip6(1)])
      assert.equal(await pings(one, address), true, address);
    assert.match(await pingByName("one", "two", "-4"), / 1 received/);
    assert.match(await pingByName("one", "two", "-6"), / 1 received/);
    assert.deepEqual(await defaultRoutes(one, 4), [`${net.ip(1)} eth0`]);
    assert.deepEqual(await defaultRoutes(one, 6), [`${net.ip6(1)} eth0`]);
  });

  // Older engines give every network an IPv4 subnet.
  if (site.line === "28.5")
    it("connects the containers of an IPv6-only network and gives them no IPv4 address", async () => {
      const net = subnets();
      await site.network("blue", "--ipv4=false", "--ipv6", "--subnet", net.v6);
      const [one] = await Promise.all([site.run("one", "blue"), site.run("two", "blue")]);
      const { v4, v6 } = await site.attachment("two", "blue");
      assert.equal(v4, "");
      assert.equal(await pings(one, v6), true);
      assert.match(await pingByName("one", "two"), / 1 received/);
      assert.deepEqual(await defaultRoutes(one, 6), [`${net.ip6(1)} eth0`]);
      assert.deepEqual(await defaultRoutes(one, 4), []);
      assert.deepEqual(addresses(await link(one, "eth0")).length, 1);
      assert.equal(await pings(one, site.neighbourAddress.v6), true);
    });

  it("connects the containers of a network's several subnets with each other", async () => {
    const [first, second] = [subnets(), subnets()];
    const all = [first.v4, second.v4, first.v6, second.v6].flatMap((subnet) => ["--subnet", subnet]);
    const id = await site.network("blue", "--ipv6", ...all);
    await Promise.all([
      site.run("one", "blue", "--ip", first.ip(10), "--ip6", first.ip6(10)),
      site.run("two", "blue", "--ip", second.ip(10), "--ip6", second.ip6(10)),
    ]);
    const [one, two] = [site.container("one"), site.container("two")];
    assert.deepEqual(
      new Set(addresses(await link(site, bridgeOf(id)))),
      new Set([first, second].flatMap(({ ip, ip6 }) => [`${ip(1)}/24`, `${ip6(1)}/64`])),
    );
    assert.deepEqual(await defaultRoutes(two, 4), [`${second.ip(1)} eth0`]);
    assert.deepEqual(await defaultRoutes(two, 6), [`${second.ip6(1)} eth0`]);
    for (const address of [second.ip(10), second.ip6(10)]) assert.equal(await pings(one, address), true);
    for (const address of [first.ip(10), first.ip6(10)]) assert.equal(await pings(two, address), true);
    for (const address of Object.values(site.neighbourAddress))
      assert.equal(await pings(two, address), true, address);
  });

  it("connects the containers of an internal network's several subnets with each other, and with nobody else", async () => {
    const [first, second] = [subnets(), subnets()];
    const all = [first.v4, second.v4, first.v6, second.v6].flatMap((subnet) => ["--subnet", subnet]);
    await site.network("blue", "--internal", "--ipv6", ...all);
    await Promise.all([
      site.run("one", "blue", "--ip", first.ip(10), "--ip6", first.ip6(10)),
      site.run("two", "blue", "--ip", second.ip(10), "--ip6", second.ip6(10)),
    ]);
    const [one, two] = [site.container("one"), site.container("two")];
    for (const address of [second.ip(10), second.ip6(10)]) assert.equal(await pings(one, address), true);
    for (const address of [first.ip(10), first.ip6(10)]) assert.equal(await pings(two, address), true);
    for (const address of Object.values(site.neighbourAddress))
      assert.equal(await pings(two, address), false, address);
    assert.deepEqual(await defaultRoutes(two, 4), []);
    assert.deepEqual(await defaultRoutes(two, 6), []);
  });

  it("uses the gateways that the user gives", async () => {
    const net = subnets();
    const gateways = ["--gateway", net.ip(254), "--gateway", net.ip6(0xfe)];
    const id = await site.network("blue", "--ipv6", "--subnet", net.v4, "--subnet", net.v6, ...gateways);
    const one = await site.run("one", "blue");
    assert.deepEqual(addresses(await link(site, bridgeOf(id))), [`${net.ip(254)}/24`, `${net.ip6(0xfe)}/64`]);
    assert.deepEqual(await defaultRoutes(one, 4), [`${net.ip(254)} eth0`]);
    assert.deepEqual(await defaultRoutes(one, 6), [`${net.ip6(0xfe)} eth0`]);
    assert.equal(await pings(one, net.ip(254)), true);
    assert.equal(await pings(one, net.ip6(0xfe)), true);
  });

  it("gives a container the addresses and the MAC that the user asks for", async () => {
    const net = subnets();
    const mac = "02:11:22:aa:bb:cc";
    await site.network("blue", "--ipv6", "--subnet", net.v4, "--subnet", net.v6);
    const [two] = await Promise.all([
      site.run("two", "blue"),
      site.run("one", "blue", "--ip", net.ip(77), "--ip6", net.ip6(0x77), "--mac-address", mac),
    ]);
    const eth0 = await link(site.container("one"), "eth0");
    assert.deepEqual(addresses(eth0), [`${net.ip(77)}/24`, `${net.ip6(0x77)}/64`]);
    assert.equal(eth0.address, mac);
    assert.equal((await site.attachment("one", "blue")).mac, mac);
    assert.equal(await pings(two, net.ip(77)), true);
    assert.equal(await pings(two, net.ip6(0x77)), true);
    assert.equal(await neighbourMac(two, net.ip(77)), mac);
  });

  it("derives the MAC from the IPv4 address and keeps it over a restart", async () => {
    const net = subnets();
    await site.network("blue", "--subnet", net.v4);
    const [one, two] = await Promise.all([
      site.run("one", "blue", "--ip", net.ip(200)),
      site.run("two", "blue"),
    ]);
    const mac = `02:42:0a:14:${hex(Number(net.v4.split(".")[2]))}:${hex(200)}`;
    assert.equal((await link(one, "eth0")).address, mac);
    assert.equal((await site.attachment("one", "blue")).mac, mac);
    assert.equal(await pings(two, net.ip(200)), true);
    await site.docker("restart", "one");
    assert.equal((await link(one, "eth0")).address, mac);
    // The neighbour's entry is still the old one.
    assert.equal(await neighbourMac(two, net.ip(200)), mac);
    assert.equal(await pings(two, net.ip(200)), true);
  });

  it("gives no container an auxiliary address, and makes the one named DefaultGatewayIPv4 the gateway", async () => {
    const net = subnets();
    const aux = [`router=${net.ip(2)}`, `printer=${net.ip(3)}`, `DefaultGatewayIPv4=${net.ip(4)}`];
    await site.network("blue", "--subnet", net.v4, ...aux.flatMap((pair) => ["--aux-address", pair]));
    const one = await site.run("one", "blue");
    assert.equal((await site.attachment("one", "blue")).v4, net.ip(5));
    assert.deepEqual(await defaultRoutes(one), [`${net.ip(4)} eth0`]);
    assert.equal(await pings(one, net.ip(1)), true);
    assert.equal(await pings(one, net.ip(3), { expected: false }), false);
  });

  /** Resolves as a program in the container does: by the resolver that its own /etc/resolv.conf names. */
  async function pingByName(container: string, name: string, ...args: string[]): Promise<string> {
    const { ResolvConfPath: path } = await site.host.api.getContainer(container).inspect();
    const script = 'mount --bind "$0" /etc/resolv.conf && exec "$@"';
    const command = ["unshare", "--mount", "sh", "-c", script, path];
    const ping = ["ping", "-c1", "-w5", ...args, name];
    return (await site.container(container).exec([...command, ...ping])).stdout;
  }
});

async function neighbourMac(place: Place, address: string): Promise<string | undefined> {
  const { stdout } = await place.exec(["ip", "-j", "neigh", "show", address]);
  const [entry] = JSON.parse(stdout) as { lladdr?: string }[];
  return entry?.lladdr;
}

function bare(cidr = ""): string {
  return cidr.split("/")[0] ?? "";
}

function hex(byte: number): string {
  return byte.toString(16).padStart(2, "0");
}
