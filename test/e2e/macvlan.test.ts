import assert from "node:assert/strict";
import { addresses, defaultRoutes, interfaces, link, privateParentOf } from "./interfaces.ts";
import { PARENT, reach, sorted } from "./lan.ts";
import { onLan } from "./on-lan.ts";
import { pings } from "./packets.ts";
import { subnets } from "./site.ts";
import { mustBe, onHost } from "./snapshot.ts";

const NO_8021Q = /this kernel has no 802\.1q/;

onLan("macvlan", (lan) => {
  const { site, peer } = lan;

  afterEach(() => lan.clear());

  it("puts a container on the parent's wire with the name, addresses, MAC and MTU asked for", async () => {
    const before = await link(site, PARENT);
    const id = await lan.network("blue", [
      "com.docker.network.container_iface_prefix=wire",
      "com.docker.network.driver.mtu=1400",
    ]);
    const mac = "02:11:22:33:44:55";
    const place = await lan.run("one", "blue", 100, { args: ["--mac-address", mac] });
    const far = await link(place, "wire0");
    assert.equal(far.linkinfo?.info_kind, "macvlan");
    assert.equal(far.mtu, 1400);
    assert.deepEqual(addresses(far), [`${place.v4}/24`, `${place.v6}/64`]);
    assert.equal(far.address, mac);
    assert.equal((await site.attachment("one", "blue")).mac, far.address);
    assert.deepEqual(await defaultRoutes(place, 4), [`${lan.lan.router.v4} wire0`]);
    assert.deepEqual(await defaultRoutes(place, 6), [`${lan.lan.router.v6} wire0`]);
    assert.equal(far.ifalias, `tsnet endpoint ${(await site.attachment("one", "blue")).id}`);
    assert.equal(await pings(place, lan.lan.client.v4), true);
    assert.equal(id.length, 64);
    const after = await link(site, PARENT);
    assert.deepEqual([after.mtu, after.address], [before.mtu, before.address]);
  });

  it("derives a MAC address from the address where none is given, and has the parent's MTU", async () => {
    await lan.network("blue");
    const one = await lan.run("one", "blue", 100);
    const far = await link(one, "eth0");
    assert.equal(far.address, "02:42:0a:4d:00:64");
    assert.equal(far.mtu, (await link(site, PARENT)).mtu);
  });

  it("mode bridge: containers reach each other, the LAN and beyond, and are reached, but not by their host", async () => {
    await Promise.all([lan.network("blue"), lan.network("blue", [], { on: peer })]);
    const [one, two, three] = await Promise.all([
      lan.run("one", "blue", 100),
      lan.run("two", "blue", 101),
      lan.run("three", "blue", 102, { on: peer }),
    ]);
    const { here, there } = lan;
    const { client, router, outside } = lan.lan;
    const expected = {
      one: ["two", "three", "client", "router", "outside", "there"],
      two: ["one", "three", "client", "router", "outside", "there"],
      three: ["one", "two", "client", "router", "outside", "here"],
      client: ["one", "two", "three", "router", "outside", "here", "there"],
      outside: ["one", "two", "three", "client", "router"],
      here: ["three", "client", "router", "there"],
      there: ["one", "two", "client", "router", "here"],
    };
    const places = { one, two, three, client, router, outside, here, there };
    assert.deepEqual(sorted(await reach(places, expected)), sorted(expected));
  });

  it("mode private: containers of one host reach everybody but each other", async () => {
    const options = ["macvlan_mode=private"];
    await Promise.all([lan.network("blue", options), lan.network("blue", options, { on: peer })]);
    const [one, two, three] = await Promise.all([
      lan.run("one", "blue", 100),
      lan.run("two", "blue", 101),
      lan.run("three", "blue", 102, { on: peer }),
    ]);
    const { client, outside } = lan.lan;
    const expected = {
      one: ["three", "client", "outside"],
      two: ["three", "client", "outside"],
      three: ["one", "two", "client", "outside"],
      client: ["one", "two", "three", "outside"],
    };
    const places = { one, two, three, client, outside };
    assert.deepEqual(sorted(await reach(places, expected)), sorted(expected));
    // Not even by way of a switch that sends their frames back.
    await lan.lan.reflect(site.host, "on");
    site.later(() => lan.lan.reflect(site.host, "off"));
    assert.deepEqual(sorted(await reach(places, expected)), sorted(expected));
  });

  it("mode vepa: containers of one host reach each other if the switch sends their frames back", async () => {
    await Promise.all([lan.network("blue", ["macvlan_mode=vepa"]), lan.network("blue", [], { on: peer })]);
    const [one, two, three] = await Promise.all([
      lan.run("one", "blue", 100),
      lan.run("two", "blue", 101),
      lan.run("three", "blue", 102, { on: peer }),
    ]);
    const { client } = lan.lan;
    const places = { one, two, three, client };
    const without = { one: ["three", "client"], two: ["three", "client"], client: ["one", "two", "three"] };
    assert.deepEqual(sorted(await reach(places, without)), sorted(without));
    await lan.lan.reflect(site.host, "on");
    site.later(() => lan.lan.reflect(site.host, "off"));
    const within = { one: ["two", "three", "client"], two: ["one", "three", "client"] };
    assert.deepEqual(sorted(await reach(places, within)), sorted(within));
  });

  it("mode passthru: one container has the parent and its MAC, and a second one is refused", async () => {
    const before = await link(site, PARENT);
    await lan.network("blue", ["macvlan_mode=passthru"]);
    const one = await lan.run("one", "blue", 100);
    assert.equal((await link(one, "eth0")).address, before.address);
    const { client, outside } = lan.lan;
    const expected = { one: ["client", "outside"], client: ["one", "outside"], outside: ["one", "client"] };
    assert.deepEqual(sorted(await reach({ one, client, outside }, expected)), sorted(expected));
    const second = ["run", "-d", "--name", "two", "--network", "blue", "tsnet/box"];
    assert.match(await site.refused(...second), /a parent with a passthru link takes no other link/);
    await site.docker("rm", "-f", "two");
    // At once again: the first one's link is on its way out.
    await site.docker("restart", "-t", "0", "one");
    assert.equal(await pings(one, client.v4), true);
    await site.docker("rm", "-f", "one");
    assert.equal((await link(site, PARENT)).address, before.address);
  });

  it("shares a parent between networks, but not with a passthru one", async () => {
    const other = subnets();
    await lan.network("blue");
    const parent = ["-o", "backend=macvlan", "-o", `parent=${PARENT}`];
    await site.network("red", ...parent, "--subnet", other.v4);
    const [one, two] = await Promise.all([lan.run("one", "blue", 100), site.run("two", "red")]);
    await Promise.all(
      [lan.lan.client, two].map((place, index) =>
        place.exec(["ip", "address", "add", `${other.ip(200 + index)}/24`, "dev", "eth0"]),
      ),
    );
    try {
      const { v4 } = await site.attachment("two", "red");
      assert.equal(await pings(lan.lan.client, v4), true);
      assert.equal(await pings(lan.lan.client, one.v4), true);
    } finally {
      await lan.lan.client.exec(["ip", "address", "del", `${other.ip(200)}/24`, "dev", "eth0"]);
    }
    const passthru = ["network", "create", "-d", "tsnet", ...parent, "-o", "macvlan_mode=passthru", "green"];
    assert.match(await site.refused(...passthru), /parent lan0 belongs to network .*passthru/);
    await site.docker("rm", "-f", "one", "two");
    await site.docker("network", "rm", "blue", "red");
    await site.docker(...passthru.slice(0, -1), "green");
    const plain = ["network", "create", "-d", "tsnet", ...parent, "--subnet", other.v4, "red"];
    assert.match(await site.refused(...plain), /parent lan0 belongs to network .*passthru/);
  });

  it("takes part in two networks of which one is not the LAN", async () => {
    await lan.network("blue");
    await site.network("own");
    const one = await lan.run("one", "blue", 100);
    const two = await site.run("two", "own");
    await site.docker("network", "connect", "own", "one");
    assert.deepEqual(Object.keys(await interfaces(one)).sort(), ["eth0", "eth1", "lo"]);
    assert.equal(await pings(one, (await site.attachment("two", "own")).v4), true);
    assert.equal(await pings(one, lan.lan.client.v4), true);
    assert.equal(await pings(two, one.v4, { expected: false }), false);
    await site.docker("network", "disconnect", "own", "one");
    assert.equal(await pings(one, lan.lan.outside.v4), true);
  });

  it("internal: reaches the LAN and nothing beyond it", async () => {
    await site.network(
      "blue",
      ...["--internal", "-o", "backend=macvlan", "-o", `parent=${PARENT}`, "--ipv6"],
      ...["--subnet", "10.77.0.0/24", "--subnet", "fd77::/64"],
    );
    const one = await lan.run("one", "blue", 100);
    const { client, outside } = lan.lan;
    const expected = { one: ["client"], client: ["one", "outside"] };
    assert.deepEqual(sorted(await reach({ one, client, outside }, expected)), sorted(expected));
    assert.deepEqual(await defaultRoutes(one, 4), []);
    assert.deepEqual(await defaultRoutes(one, 6), []);
  });

  it("makes a parent that leads nowhere where none is given", async () => {
    const before = await onHost(site);
    const net = subnets();
    const options = ["-o", "backend=macvlan", "--ipv6", "--subnet", net.v4, "--subnet", net.v6];
    const id = await site.network("blue", ...options);
    const parent = await link(site, privateParentOf(id));
    assert.match(parent.linkinfo?.info_kind ?? "", /^(dummy|ifb)$/);
    assert.equal(parent.ifalias, `tsnet network ${id}`);
    assert.deepEqual(parent.addr_info, []);
    const [one, two] = await Promise.all([site.run("one", "blue"), site.run("two", "blue")]);
    const places = {
      one: { ...one, ...(await site.attachment("one", "blue")) },
      two: { ...two, ...(await site.attachment("two", "blue")) },
      client: lan.lan.client,
      here: lan.here,
    };
    const expected = { one: ["two"], two: ["one"], here: ["client"] };
    assert.deepEqual(sorted(await reach(places, expected)), sorted(expected));
    assert.deepEqual(await defaultRoutes(one), []);
    await site.docker("rm", "-f", "one", "two");
    await site.docker("network", "rm", "blue");
    await mustBe(before, site);
  });

  it("has the gateway that the engine's driver has where none is given, and gives its address to nobody", async () => {
    const { v4, v6 } = subnets();
    const pools = ["--subnet", v4, "--ipv6", "--subnet", v6];
    const wayOut = async (...driver: string[]) => {
      await site.docker("network", "create", ...driver, "-o", `parent=${PARENT}`, ...pools, "blue");
      const one = await site.run("one", "blue");
      const seen = {
        addresses: addresses(await link(one, "eth0")),
        routes: [await defaultRoutes(one, 4), await defaultRoutes(one, 6)],
      };
      await site.docker("rm", "-f", "one");
      await site.docker("network", "rm", "blue");
      return seen;
    };
    const engines = await wayOut("-d", "macvlan");
    assert.deepEqual(engines.routes.flat().length, 2);
    assert.deepEqual(await wayOut("-d", "tsnet", "-o", "backend=macvlan"), engines);
  });

  it("never has the engine add docker_gwbridge", async () => {
    const [a, b] = [subnets(), subnets()];
    const on = ["-o", "backend=macvlan", "-o", `parent=${PARENT}`];
    const kinds: Record<string, string[]> = {
      gateway: [...on, "--subnet", a.v4, "--gateway", a.ip(1)],
      internal: [...on, "--subnet", b.v4, "--internal"],
      addressless: [...on, "--ipam-driver", "null"],
      private: ["-o", "backend=macvlan"],
      ...(site.line === "28.5" ? { six: [...on, "--ipv4=false", "--ipv6"], bare: on } : {}),
    };
    await Promise.all(
      Object.entries(kinds).map(async ([name, args]) => {
        await site.network(name, ...args);
        await site.run(`on-${name}`, name);
      }),
    );
    const names = (await site.host.api.listNetworks()).map(({ Name }) => Name);
    assert.deepEqual(names.sort(), ["bridge", "host", "none", ...Object.keys(kinds)].sort());
    for (const name of Object.keys(kinds))
      assert.deepEqual(Object.keys(await interfaces(site.container(`on-${name}`))).sort(), ["eth0", "lo"]);
  });

  it("starts a container that publishes ports and says in its log that they have no effect", async () => {
    const marked = (await site.host.tsnetLog()).length;
    await lan.network("blue");
    const one = await lan.run("one", "blue", 100, { args: ["-p", "8080:80"] });
    assert.equal(await pings(one, lan.lan.client.v4), true);
    const warnings = (await site.host.tsnetLog())
      .slice(marked)
      .split("\n")
      .filter((line) => line.includes("-p has no effect"));
    assert.equal(warnings.length, 1);
  });

  it("refuses parents that cannot be, with what is wrong about them", async () => {
    await site.exec([
      "sh",
      "-ec",
      "ip link add sw type bridge; ip link add in-sw type veth peer name in-sw2; ip link set in-sw master sw",
    ]);
    site.later(() => site.exec(["sh", "-c", "ip link del sw; ip link del in-sw"]));
    await site.network("own");
    const [bridge = ""] = Object.keys(await interfaces(site)).filter((name) => name.startsWith("ts-"));
    const refused: [string, RegExp][] = [
      ["nowhere", /option parent is "nowhere", but must be an Ethernet link of this host, or LINK\.ID/],
      ["nowhere.50", /but must be an Ethernet link of this host/],
      ["lo", /but lo is not an Ethernet link/],
      ["in-sw", /parent in-sw is a port of sw; name that as the parent/],
      [bridge, /belongs to network/],
      [`${PARENT}.0`, /a VLAN has a number from 1 to 4094/],
      [`${PARENT}.4095`, /a VLAN has a number from 1 to 4094/],
    ];
    const checks = refused.map(async ([parent, why]) => {
      const said = await site.refused(...create(`parent=${parent}`));
      assert.match(said, why);
      assert.equal(said.split("\n").length, 1);
    });
    await Promise.all(checks);
  });

  it("refuses options that contradict each other or the parent", async () => {
    const refused: [string[], RegExp][] = [
      [["macvlan_mode=hub"], /must be one of bridge, private, vepa, passthru/],
      [["host_access=yes"], /must be on or off/],
      [["host_access=on", "macvlan_mode=private"], /host_access=on needs macvlan_mode=bridge/],
      [["com.docker.network.driver.mtu=9000"], /must be no more than the 1500 of parent lan0/],
      [["host_access=on"], /parent lan0 has no address in .*--aux-address host=ADDRESS/],
    ];
    const checks = refused.map(async ([options, why]) => {
      assert.match(await site.refused(...create(`parent=${PARENT}`, ...options)), why);
    });
    await Promise.all(checks);
    await site.exec(["ip", "link", "add", "small", "mtu", "1279", "type", "veth", "peer", "name", "small2"]);
    site.later(() => site.exec(["ip", "link", "del", "small"]));
    const six = ["--ipv6", "--subnet", subnets().v6];
    const said = await site.refused(...create("parent=small"), ...six);
    assert.match(said, /parent small has an MTU of 1279, but IPv6 needs at least 1280 bytes/);
  });

  it("makes a VLAN that is missing and removes it with its last network, or says that the kernel has none", async () => {
    const vlan = `${PARENT}.50`;
    const before = await onHost(site);
    const created = await site.docker(...create(`parent=${vlan}`)).then(
      () => "made",
      (error: unknown) => String(error),
    );
    if (created !== "made") {
      assert.match(created, NO_8021Q);
      await mustBe(before, site);
      return;
    }
    assert.equal((await link(site, vlan)).linkinfo?.info_kind, "vlan");
    await site.network("second", "-o", "backend=macvlan", "-o", `parent=${vlan}`);
    await site.docker("network", "rm", "wrong");
    assert.equal((await link(site, vlan)).linkinfo?.info_kind, "vlan");
    await site.docker("network", "rm", "second");
    await mustBe(before, site);
  });

  it("leaves nothing behind, and the parent as it was", async () => {
    const before = await onHost(site);
    const marked = (await site.host.tsnetLog()).length;
    await lan.network("blue", ["host_access=on"]);
    await Promise.all([100, 101, 102].map((number) => lan.run(`c${String(number)}`, "blue", number)));
    await site.docker("restart", "-t", "0", "c100");
    await site.docker("network", "disconnect", "blue", "c101");
    await site.docker("network", "connect", "blue", "c101");
    await site.docker("rm", "-f", "c100", "c101", "c102");
    await site.docker("network", "rm", "blue");
    await mustBe(before, site);
    const lines = (await site.host.tsnetLog()).slice(marked).split("\n").filter(Boolean);
    assert.deepEqual(
      lines.filter((line) => (JSON.parse(line) as { level: number }).level >= 40),
      [],
    );
  });

  it("has two networks on one subnet, each with a range of its own", async () => {
    const containers = await Promise.all(
      ["10.77.0.128/28", "10.77.0.144/28"].map(async (range, index) => {
        const name = `net${String(index)}`;
        const options = ["backend=macvlan", `parent=${PARENT}`].flatMap((option) => ["-o", option]);
        await site.network(name, ...options, "--subnet", "10.77.0.0/24", "--ip-range", range);
        const place = await site.run(`on-${name}`, name);
        return { place, ...(await site.attachment(`on-${name}`, name)) };
      }),
    );
    const [one = assert.fail(), two = assert.fail()] = containers;
    assert.ok(one.v4 < "10.77.0.144" && two.v4 >= "10.77.0.144", `${one.v4} ${two.v4}`);
    assert.equal(await pings(one.place, two.v4), true);
    for (const { v4 } of containers) assert.equal(await pings(lan.lan.client, v4), true);
  });

  function create(...options: string[]): string[] {
    const given = ["backend=macvlan", ...options].flatMap((option) => ["-o", option]);
    return ["network", "create", "-d", "tsnet", ...given, "wrong"];
  }
});
