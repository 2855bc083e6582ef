import assert from "node:assert/strict";
import { withBridgeNetfilter } from "./bridge-netfilter.ts";
import { onEachEngine } from "./each-engine.ts";
import { addresses, bridgeOf, hostEndOf, interfaces, link } from "./interfaces.ts";
import { pings } from "./packets.ts";
import { subnets } from "./site.ts";

onEachEngine("links", (site) => {
  afterEach(() => site.clear());

  it("makes a bridge, and a veth pair for each container with its far end as eth0", async () => {
    const net = subnets();
    const id = await site.network("blue", "--subnet", net.v4);
    const one = await site.run("one", "blue");
    const { id: endpoint, mac } = await site.attachment("one", "blue");
    const bridge = await link(site, bridgeOf(id));
    assert.equal(bridge.linkinfo?.info_kind, "bridge");
    assert.equal(bridge.ifalias, `tsnet network ${id}`);
    assert.deepEqual(addresses(bridge), [`${net.ip(1)}/24`]);
    assert.ok(bridge.flags.includes("UP"));
    const near = await link(site, hostEndOf(endpoint));
    assert.equal(near.linkinfo?.info_kind, "veth");
    assert.equal(near.ifalias, `tsnet endpoint ${endpoint}`);
    assert.equal(near.master, bridge.ifname);
    assert.ok(near.flags.includes("UP"));
    const far = await interfaces(one);
    assert.deepEqual(Object.keys(far).sort(), ["eth0", "lo"]);
    assert.equal(far["eth0"]?.address, mac);
    assert.deepEqual(addresses(far["eth0"]), [`${net.ip(2)}/24`]);
  });

  it("lets packets be as large as the kernel allows, and a container's no larger than its way out", async () => {
    const kinds = { plain: [], inside: ["--internal"], asked: ["-o", "big_tcp=true"] };
    const uplink = (await link(site, "eth0")).gso_max_size ?? 0;
    for (const [name, args] of Object.entries(kinds)) {
      const id = await site.network(name, ...args);
      const { gso_max_size: far = 0 } = await link(await site.run(`on-${name}`, name), "eth0");
      const { id: endpoint } = await site.attachment(`on-${name}`, name);
      for (const host of [bridgeOf(id), hostEndOf(endpoint)])
        assert.ok(((await link(site, host)).gso_max_size ?? 0) > 65_536, `${host} of ${name}`);
      if (name === "plain") assert.equal(far, uplink);
      else assert.ok(far > 65_536, name);
    }
  });

  it("gives the bridge and both ends of every pair the MTU from the option", async () => {
    const id = await site.network("blue", "-o", "com.docker.network.driver.mtu=1280");
    const [one] = await Promise.all([site.run("one", "blue"), site.run("two", "blue")]);
    assert.deepEqual(await mtus(id, "blue", "one"), { bridge: 1280, near: 1280, far: 1280 });
    const { v4 } = await site.attachment("two", "blue");
    const ping = (size: number) =>
      one.exec(["ping", "-c1", "-W2", "-Mdo", `-s${String(size)}`, v4], { allowFailure: true });
    assert.equal((await ping(1280 - 28)).code, 0);
    assert.match((await ping(1280 - 27)).stderr, /message too long, mtu=1280/);
  });

  it("takes the MTU of the default route's link where no option gives one", async () => {
    const before = (await link(site, "eth0")).mtu;
    await site.exec(["ip", "link", "set", "eth0", "mtu", "1390"]);
    site.later(() => site.exec(["ip", "link", "set", "eth0", "mtu", String(before)]));
    const id = await site.network("blue");
    await site.run("one", "blue");
    assert.deepEqual(await mtus(id, "blue", "one"), { bridge: 1390, near: 1390, far: 1390 });
    assert.notEqual(before, 1390);
  });

  it("names the interface in the container after the prefix option", async () => {
    await site.network("blue", "-o", "com.docker.network.container_iface_prefix=lan");
    const one = await site.run("one", "blue");
    assert.deepEqual(Object.keys(await interfaces(one)).sort(), ["lan0", "lo"]);
    assert.equal(await pings(one, site.neighbourAddress.v4), true);
  });

  it("makes and deletes a bridge of the name that the option gives", async () => {
    await site.network("blue", "-o", "com.docker.network.bridge.name=blue-br");
    const [one] = await Promise.all([site.run("one", "blue"), site.run("two", "blue")]);
    assert.equal((await link(site, "blue-br")).linkinfo?.info_kind, "bridge");
    assert.equal(await pings(one, (await site.attachment("two", "blue")).v4), true);
    await site.docker("rm", "-f", "one", "two");
    await site.docker("network", "rm", "blue");
    assert.equal("blue-br" in (await interfaces(site)), false);
  });

  it("adopts a bridge that is there, and leaves it as it was when the network goes", async () => {
    const net = subnets();
    const other = subnets();
    for (const command of [
      // With a MAC of its own: otherwise it takes the lowest of its ports'.
      "link add own-br address 02:00:00:00:00:07 type bridge",
      "link set own-br mtu 1420 up",
      `addr add ${net.ip(1)}/24 dev own-br`,
      `addr add ${other.ip(7)}/24 dev own-br`,
    ])
      await site.exec(["ip", ...command.split(" ")]);
    site.later(() => site.exec(["ip", "link", "del", "own-br"]));
    const asItWas = unchanging(await link(site, "own-br"));

    const named = ["-o", "com.docker.network.bridge.name=own-br"];
    await site.network("blue", "--ipv6", "--subnet", net.v4, "--subnet", net.v6, ...named);
    const [one] = await Promise.all([site.run("one", "blue"), site.run("two", "blue")]);
    const { v4, v6 } = await site.attachment("two", "blue");
    // The last two are addresses of the bridge: the gateway that tsnet put there and one it knows nothing of.
    for (const address of [v4, v6, net.ip(1), net.ip6(1), other.ip(7)])
      assert.equal(await pings(one, address), true, address);
    assert.equal((await link(one, "eth0")).mtu, 1420);

    await site.docker("rm", "-f", "one", "two");
    await site.docker("network", "rm", "blue");
    assert.deepEqual(unchanging(await link(site, "own-br")), asItWas);
  });

  it("leaves the IPv4 gateway off the bridge with inhibit_ipv4", async () => {
    const net = subnets();
    const id = await site.network(
      "blue",
      ...["--ipv6", "--subnet", net.v4, "--subnet", net.v6],
      ...["-o", "com.docker.network.bridge.inhibit_ipv4=true"],
    );
    const [one] = await Promise.all([site.run("one", "blue"), site.run("two", "blue")]);
    assert.deepEqual(addresses(await link(site, bridgeOf(id))), [`${net.ip6(1)}/64`]);
    assert.equal(await pings(one, (await site.attachment("two", "blue")).v4), true);
    assert.equal(await pings(one, net.ip6(1)), true);
    assert.equal(await pings(one, net.ip(1), { expected: false }), false);
  });

  it("gives a container nothing back that it sent to all, though it publishes a port", async () => {
    const net = subnets();
    await site.network("blue", "--ipv6", "--subnet", net.v4, "--subnet", net.v6);
    const one = await site.run("one", "blue", "-p", "8080:80", "-p", "5353:5353/udp");
    for (const group of ["ff02::4242%eth0", "224.0.0.42"]) {
      const heard = await one.exec([process.execPath, "-e", HEARS_ITSELF, group]);
      assert.equal(heard.stdout.trim(), "0", group);
    }
    // The kernel itself gives a sender what it broadcasts.
    for (const all of ["255.255.255.255", net.v4.replace(/0\/24$/, "255")]) {
      const heard = await one.exec([process.execPath, "-e", HEARS_ITSELF, all]);
      assert.equal(heard.stdout.trim(), "1", all);
    }
  });

  for (const value of ["0", "1"] as const)
    it(`serves those behind a bridge in a container that publishes a port, br_netfilter being ${value === "0" ? "off" : "on"}`, async () => {
      const net = subnets();
      await site.network("blue", "--subnet", net.v4);
      const one = await site.run("one", "blue", "--ip", net.ip(10), "-p", "8080:80");
      await site.run("two", "blue", "--ip", net.ip(20));
      // As a virtual machine has it, on a tap.
      const machine = await site.run("machine", "none");
      const { State: state } = await site.host.api.getContainer("machine").inspect();
      const script = `
        ip link add inside type bridge && ip link add port0 type veth peer name eth9 netns ${String(state.Pid)}
        ip link set port0 master inside up && ip link set inside up
        ip addr flush dev eth0 && ip link set eth0 master inside && ip addr add ${net.ip(10)}/24 dev inside`;
      await one.exec(["sh", "-ec", script]);
      await machine.exec(["sh", "-ec", `ip addr add ${net.ip(30)}/24 dev eth9; ip link set eth9 up`]);
      await withBridgeNetfilter(site, value, async () => {
        for (const target of [20, 1, 10])
          for (const _ of [1, 2]) assert.equal(await pings(machine, net.ip(target)), true, net.ip(target));
      });
    });

  it("never has the engine add docker_gwbridge", async () => {
    const [a, b, c, d] = [subnets(), subnets(), subnets(), subnets()];
    const isolated = "com.docker.network.bridge.gateway_mode_ipv4=isolated";
    const kinds: Record<string, string[]> = {
      plain: ["--subnet", a.v4],
      internal: ["--subnet", b.v4, "--internal"],
      inhibited: ["--subnet", c.v4, "-o", "com.docker.network.bridge.inhibit_ipv4=true"],
      isolated: ["--subnet", d.v4, "--internal", "-o", isolated],
      addressless: ["--ipam-driver", "null"],
      ...(site.line === "28.5"
        ? { six: ["--ipv4=false", "--ipv6"], internalSix: ["--ipv4=false", "--ipv6", "--internal"] }
        : {}),
    };
    await Promise.all(
      Object.entries(kinds).map(async ([name, args]) => {
        await site.network(name, ...args);
        await site.run(`on-${name}`, name);
      }),
    );
    const names = (await site.host.api.listNetworks()).map(({ Name }) => Name);
    assert.deepEqual(names.sort(), ["bridge", "host", "none", ...Object.keys(kinds)].sort());
    assert.equal("docker_gwbridge" in (await interfaces(site)), false);
    for (const name of Object.keys(kinds))
      assert.deepEqual(Object.keys(await interfaces(site.container(`on-${name}`))).sort(), ["eth0", "lo"]);
  });

  async function mtus(network: string, name: string, container: string): Promise<object> {
    const { id } = await site.attachment(container, name);
    const [bridge, near] = [await link(site, bridgeOf(network)), await link(site, hostEndOf(id))];
    const far = await link(site.container(container), "eth0");
    return { bridge: bridge.mtu, near: near.mtu, far: far.mtu };
  }
});

/** Sends to many and says how often it heard that; the kernel itself is told to give it no copy of what is multicast. */
const HEARS_ITSELF = `
  const [, to] = process.argv;
  const socket = require("dgram").createSocket(to.includes(":") ? "udp6" : "udp4");
  let heard = 0;
  socket.on("message", () => (heard += 1)).bind(5353, () => {
    if (to.includes(":")) socket.setMulticastInterface("::%eth0");
    if (to.includes(":")) socket.addMembership(to.split("%")[0], "::%eth0");
    else if (to.startsWith("224.")) socket.addMembership(to);
    else socket.setBroadcast(true);
    if (!to.includes("255")) socket.setMulticastLoopback(false);
    socket.send("?", 5353, to);
    setTimeout(() => (console.log(heard), socket.close()), 300);
  });`;

/** Without what says only whether it has ports. */
function unchanging({ ifname, mtu, address, addr_info }: Awaited<ReturnType<typeof link>>): object {
  const lasting = addr_info.filter(({ scope }) => scope === "global");
  return { ifname, mtu, address, addresses: lasting.map(({ local, prefixlen }) => [local, prefixlen]) };
}
