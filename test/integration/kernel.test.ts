import assert from "node:assert/strict";
import { once } from "node:events";
import { type AddressInfo, connect, createServer } from "node:net";
import { KernelError } from "../../src/errors.ts";
import type { ServedPort } from "../../src/kernel/flow.ts";
import { Host } from "../../src/kernel/host.ts";
import { run } from "../lab/command.ts";
import { sendUdp, tcpFlows, trackFlows, udpFlows } from "../support/flows.ts";
import { ip, ipAddresses, ipLink, ipLinks, mustBeIsolated, plugWire, wipe } from "../support/isolated.ts";
import { until } from "../support/until.ts";

describe("Host", () => {
  let host: Host;

  before(mustBeIsolated);
  beforeEach(() => {
    host = new Host((error) => {
      throw error;
    });
  });
  afterEach(async () => {
    await host.close();
    await wipe();
  });

  it("sees every link as iproute2 does", async () => {
    await ip(
      "link add br0 type bridge",
      "link set br0 up mtu 1400 address 02:00:00:00:00:05 group 77",
      "link add v0 type veth peer name v1",
      "link set v0 master br0 up",
      "link add tun0 type vxlan id 7 dstport 4789 remote 192.0.2.9",
    );
    await run(["ip", "link", "set", "v0", "alias", "with spaces, and ümlaut"]);
    await run(["bridge", "link", "set", "dev", "v0", "isolated", "on"]);
    const [mine, theirs] = [await host.links.list(), await ipLinks()];
    assert.equal(mine.length, theirs.length);
    // A kernel without a kind lists everything.
    for (const kind of ["bridge", "veth", "macvlan", "ifb", "vlan"] as const)
      assert.deepEqual(
        await host.links.list(kind),
        mine.filter((link) => link.kind === kind),
      );
    for (const { ifname, ifindex, mtu, flags, address, ifalias = "", master, linkinfo, group } of theirs) {
      const link = mine.find(({ name }) => name === ifname);
      assert.ok(link, ifname);
      assert.deepEqual(await host.links.get(ifname), link);
      assert.deepEqual(
        [link.index, link.mtu, link.up, link.mac, link.alias, link.kind, link.isolated],
        [
          ifindex,
          mtu,
          flags.includes("UP"),
          address,
          ifalias,
          linkinfo?.info_kind ?? "",
          linkinfo?.info_slave_data?.isolated ?? false,
        ],
      );
      assert.equal(theirs.find((other) => other.ifindex === link.master)?.ifname, master);
      assert.equal(String(link.group), group === "default" ? "0" : group);
    }
    assert.equal(await host.links.get("none"), undefined);
  });

  it("answers each of many requests that come at once", async () => {
    const names = Array.from({ length: 50 }, (_, number) => `br${number % 40}`);
    const ends = await Promise.allSettled(
      names.map((name) => host.links.add({ name, kind: "bridge", group: 5 })),
    );
    assert.deepEqual(
      ends.map((end) => (end.status === "rejected" ? (end.reason as KernelError).errno : "")),
      names.map((_, number) => (number < 40 ? "" : "EEXIST")),
    );
    const asked = await Promise.all([...names, "none"].map((name) => host.links.get(name)));
    assert.deepEqual(
      asked.map((link) => link?.name),
      [...names, undefined],
    );
  });

  it("does other things while the kernel waits", async () => {
    const names = Array.from({ length: 10 }, (_, number) => `br${number}`);
    for (const name of names) await host.links.add({ name, kind: "bridge", group: 5 });
    let ticks = 0;
    const clock = setInterval(() => (ticks += 1), 1);
    try {
      // Some 30 ms each, all of it within the call that asks.
      for (const name of names) await host.links.delete(name);
    } finally {
      clearInterval(clock);
    }
    assert.ok(ticks > 3 * names.length, `${ticks} ticks of a millisecond`);
  });

  it("makes links that iproute2 sees as asked for, or not at all", async () => {
    const bridge = {
      name: "br0",
      kind: "bridge",
      group: 5,
      mac: "02:00:00:00:00:06",
      mtu: 1300,
      up: true,
    } as const;
    await host.links.add(bridge);
    const pair = {
      name: "v0",
      kind: "veth",
      group: 5,
      mtu: 1300,
      peer: { name: "v1", mac: "02:00:00:00:00:07" },
    } as const;
    await host.links.add(pair);
    const [br, v0, v1] = [await ipLink("br0"), await ipLink("v0"), await ipLink("v1")];
    assert.deepEqual(
      [br?.address, br?.mtu, br?.group, br?.flags.includes("UP")],
      ["02:00:00:00:00:06", 1300, "5", true],
    );
    assert.deepEqual(
      [v0?.mtu, v1?.mtu, v1?.address, v0?.flags.includes("UP")],
      [1300, 1300, "02:00:00:00:00:07", false],
    );
    for (const taken of [bridge, pair, { ...pair, name: "v2" }])
      await assert.rejects(
        host.links.add(taken),
        (error) =>
          error instanceof KernelError &&
          error.errno === "EEXIST" &&
          error.message.startsWith(`ip link add ${taken.name} `),
      );
    assert.equal(await ipLink("v2"), undefined);
  });

  it("adds and deletes addresses, and tells whether they were there", async () => {
    await ip("link add br0 type bridge", "link set br0 up");
    const link = (await host.links.get("br0")) ?? assert.fail();
    for (const cidr of ["10.1.0.1/16", "fd01::1/64"]) {
      assert.equal(await host.addresses.add(link, cidr), true);
      assert.equal(await host.addresses.add(link, cidr), false);
    }
    assert.deepEqual(await ipAddresses("br0"), ["10.1.0.1/16", "fd01::1/64"]);
    const own = (await host.addresses.list())
      .filter(({ index }) => index === link.index)
      .map(({ cidr }) => cidr);
    assert.deepEqual(own.filter((cidr) => !cidr.startsWith("fe80")).sort(), ["10.1.0.1/16", "fd01::1/64"]);
    // Usable at once: nobody else can have it.
    const { stdout } = await run(["ip", "-6", "addr", "show", "dev", "br0", "tentative"]);
    assert.doesNotMatch(stdout, /fd01::1/);
    for (const cidr of ["10.1.0.1/16", "fd01::1/64"]) {
      await host.addresses.delete(link, cidr);
      await host.addresses.delete(link, cidr);
    }
    assert.deepEqual(await ipAddresses("br0"), []);
    await host.addresses.delete({ index: 9999, name: "gone" }, "10.1.0.1/16");
  });

  it("lists the routes of the main table of both families, and no others", async () => {
    await ip(
      "link add v0 type veth peer name v1",
      "link set v0 up",
      "link set v1 up",
      "addr add 192.0.2.1/24 dev v0",
      "addr add fd02::1/64 dev v0 nodad",
      "route add default via 192.0.2.2 metric 5",
      "route add 198.51.100.0/24 via 192.0.2.3",
      "route add blackhole 203.0.113.0/24",
      "route add 10.99.0.0/16 via 192.0.2.4 table 77",
    );
    const index = (await ipLink("v0"))?.ifindex;
    const routes = (await host.routes.list()).filter(({ subnet }) => !subnet.startsWith("fe80"));
    assert.deepEqual(
      routes
        .filter(({ link }) => link === index)
        .map(({ subnet }) => subnet)
        .sort(),
      ["0.0.0.0/0", "192.0.2.0/24", "198.51.100.0/24", "fd02::/64"],
    );
    assert.equal(routes.find(({ subnet }) => subnet === "0.0.0.0/0")?.metric, 5);
    assert.ok(!routes.some(({ subnet }) => subnet.startsWith("10.99.") || subnet.startsWith("203.0.113.")));
  });

  it("finds the link that the default route leads through, by the lower metric of two", async () => {
    assert.equal(await host.uplink(), undefined);
    await ip(
      "link add v0 type veth peer name v1",
      "link add v2 type veth peer name v3",
      "link set v0 up mtu 1280",
      "link set v1 up",
      "link set v2 up",
      "link set v3 up",
      "addr add 192.0.2.1/24 dev v0",
      "addr add 198.51.100.1/24 dev v2",
      "route add default via 192.0.2.2 metric 20",
      "route add default via 198.51.100.2 metric 30",
    );
    const uplink = await host.uplink();
    assert.deepEqual([uplink?.name, uplink?.mtu], ["v0", 1280]);
  });

  it("answers many requests and dumps at once, each with its own answer", async () => {
    await ip(...Array.from({ length: 20 }, (_, number) => `link add b${number} type bridge`));
    const gets = Array.from({ length: 200 }, (_, number) => host.links.get(`b${number % 25}`));
    const lists = Array.from({ length: 10 }, () => host.links.list());
    const addresses = Array.from({ length: 10 }, () => host.addresses.list());
    for (const [number, link] of (await Promise.all(gets)).entries())
      assert.equal(link?.name, number % 25 < 20 ? `b${number % 25}` : undefined);
    for (const list of await Promise.all(lists)) assert.equal(list.length, 21);
    await Promise.all(addresses);
  });

  it("tells of every change that somebody makes to links and addresses", async () => {
    let events = 0;
    host.watch(() => (events += 1));
    for (const command of [
      "link add b0 type bridge",
      "link set b0 up",
      "addr add 10.1.0.1/16 dev b0",
      "addr del 10.1.0.1/16 dev b0",
      "link delete b0",
    ]) {
      const before = events;
      await ip(command);
      await until(`it told of: ip ${command}`, () => events > before, { timeoutMs: 1000 });
    }
  });

  it("says which command failed and with which errno", async () => {
    await assert.rejects(
      host.links.set("none", { up: true }),
      (error) =>
        error instanceof KernelError &&
        error.errno === "ENODEV" &&
        error.message.startsWith("ip link set none: ENODEV"),
    );
    await ip("link add b0 type bridge");
    await assert.rejects(
      host.links.set("b0", { mtu: 20 }),
      (error) => error instanceof KernelError && error.errno === "EINVAL",
    );
  });
});

describe("Conntrack", () => {
  /** Some of the host's addresses, and some of other machines'. */
  const HERE = ["127.0.0.1", "127.0.0.5", "10.1.0.200", "::1", "fd01::200"];
  const BEYOND = ["10.1.0.9", "fd01::9", "ff02::9%wire0"];
  let host: Host;

  before(mustBeIsolated);
  beforeEach(async () => {
    await plugWire();
    await trackFlows();
    host = new Host((error) => {
      throw error;
    });
  });
  afterEach(async () => {
    await host.close();
    await wipe();
  });

  const udp = (address: string, port: number): ServedPort => ({ protocol: "udp", address, port });

  /** Where flows to one of two ports have gone. */
  async function forgotten(...ports: ServedPort[]): Promise<string[]> {
    await sendUdp(
      [...HERE, ...BEYOND].flatMap((address) => [
        { address, port: 53 },
        { address, port: 54 },
      ]),
    );
    const before = udpFlows([53, 54]);
    assert.equal(new Set(before).size, 2 * (HERE.length + BEYOND.length), before.join());
    await host.flows.forget(ports);
    const after = udpFlows([53, 54]);
    return [...new Set(before)].filter((flow) => !after.includes(flow));
  }

  it("forgets what was sent to a port of the host's, and not what goes through it to others' same port", async () => {
    const [v4, v6] = [udp("0.0.0.0", 53), udp("::", 53)];
    assert.deepEqual(await forgotten(v4), ["10.1.0.200 53", "127.0.0.1 53", "127.0.0.5 53"]);
    assert.deepEqual(await forgotten(v6), ["::1 53", "fd01::200 53"]);
    assert.deepEqual(await forgotten(v4, v6), [
      "10.1.0.200 53",
      "127.0.0.1 53",
      "127.0.0.5 53",
      "::1 53",
      "fd01::200 53",
    ]);
  });

  it("forgets what was sent to the address that it is told, and not to the host's others", async () => {
    assert.deepEqual(await forgotten(udp("10.1.0.200", 53)), ["10.1.0.200 53"]);
    assert.deepEqual(await forgotten(udp("fd01:0::200", 54)), ["fd01::200 54"]);
    assert.deepEqual(await forgotten(udp("10.1.0.9", 53), udp("fd01::9", 54)), ["10.1.0.9 53", "fd01::9 54"]);
    assert.deepEqual(await forgotten(udp("10.1.0.9", 55)), []);
  });

  it("forgets what somebody sent or was sent, and nobody else", async () => {
    await sendUdp([...HERE, ...BEYOND].map((address) => ({ address, port: 56 })));
    // That is where what goes to others by IPv6 comes from.
    host.flows.forgetSoon(["10.1.0.9", "fd01::200"]);
    await host.flows.forgotten(["fd01::200"]);
    assert.deepEqual(udpFlows([56]), ["10.1.0.200 56", "127.0.0.1 56", "127.0.0.5 56", "::1 56"]);
    host.flows.forgetSoon(["10.1.0.200"]);
    await host.flows.forgotten(["10.1.0.9"]);
    assert.equal(udpFlows([56]).length, 4, "it waited for another address");
    await until("nobody to have to wait", () => udpFlows([56]).length === 3);
    assert.deepEqual(udpFlows([56]), ["127.0.0.1 56", "127.0.0.5 56", "::1 56"]);
  });

  it("forgets what nobody has answered of TCP, and keeps what is being spoken", async () => {
    const server = createServer((socket) => socket.end()).listen(0, "127.0.0.1");
    await once(server, "listening");
    const { port } = server.address() as AddressInfo;
    const known = connect(port, "127.0.0.1");
    await once(known, "connect");
    const unheard = connect(port, "10.1.0.9");
    unheard.on("error", () => undefined);
    const flows = () => tcpFlows(port);
    await until("both to be tracked", () => flows().length === 2);
    await host.flows.forget([
      { protocol: "tcp", address: "127.0.0.1", port },
      { protocol: "tcp", address: "10.1.0.9", port },
    ]);
    assert.deepEqual(flows(), [`127.0.0.1 ${port}`]);
    unheard.destroy();
    known.destroy();
    server.close();
  });

  it("looks once for many who ask at the same time", async () => {
    const address = "127.0.0.1";
    const ports = Array.from({ length: 20_000 }, (_, index) => udp(address, index + 1));
    await sendUdp([
      { address, port: 53 },
      { address, port: 19_999 },
    ]);
    await Promise.all(ports.map((port) => host.flows.forget([port])));
    assert.deepEqual(
      udpFlows([53, 19_999]).filter((flow) => flow.startsWith(address)),
      [],
    );
  });
});
