import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { isDeepStrictEqual } from "node:util";
import { FAMILIES, type Family, bare } from "../../src/ip.ts";
import type { EndpointRequest, NetworkRequest } from "../../src/model.ts";
import { bridgeName } from "../../src/names.ts";
import { run } from "../lab/command.ts";
import { FakeSandbox } from "../support/fake-sandbox.ts";
import { type End, sendForged } from "../support/forged.ts";
import { ip, ipLink, mustBeIsolated, plugWire, setSysctl, wipe } from "../support/isolated.ts";
import { PORTS } from "../support/networks.ts";
import { EVERYTHING, type Place, arrivals, leave, placeIn } from "../support/places.ts";
import { id } from "../support/requests.ts";
import { DOCKER0, Site } from "../support/site.ts";
import { until } from "../support/until.ts";

const UNPROTECTED = Object.fromEntries(
  [4, 6].map((family) => [`com.docker.network.bridge.gateway_mode_ipv${String(family)}`, "nat-unprotected"]),
);
/** Host ports of what is published, and those of the host's own that nobody publishes. */
const PUBLISHED = { tcp: 8080, udp: 5353 };
const NOT_PING = EVERYTHING.filter((what) => !what.startsWith("ping"));

/** Addresses of nobody's network, with prefix length. */
const PRETENDED = {
  4: { own: "10.66.0.2/24", gateway: "10.66.0.1/24" },
  6: { own: "fd66::2/64", gateway: "fd66::1/64" },
} as const;

/** Addresses of network 2, for another container than its first. */
const BESIDE_2 = { ipv4: "10.2.0.6/16", ipv6: "fd02::6/64" } as const;
/** This process is the relay, and has nothing else to do. */
const RELAYED_MS = 300;
/** Two containers answer each other, if they can. */
const FORGED_MS = 500;

const BRIDGE_NAME = "com.docker.network.bridge.name";
const CUT_OFF = network(2, { options: { "com.docker.network.bridge.enable_icc": "false" } });
const NAMED = { options: { [BRIDGE_NAME]: "lab" } };

/** To whom somebody would speak, and who: twice the same is a container of the same network. */
const INTRUSIONS: Readonly<
  Record<string, readonly [NetworkRequest | "the engine's", NetworkRequest | "the engine's"]>
> = {
  "another network": [network(6), network(2)],
  "another network, from a bridge with a name of its own": [network(6, NAMED), network(2)],
  "another network on a bridge with a name of its own": [network(6), network(2, NAMED)],
  "another network, from an internal one": [network(6, { internal: true }), network(2)],
  "an internal network": [network(6), network(2, { internal: true })],
  "a network, from the engine's": ["the engine's", network(2)],
  "a network on a bridge with a name of its own, from the engine's": ["the engine's", network(2, NAMED)],
  "the engine's": [network(6), "the engine's"],
  "the engine's, from a bridge with a name of its own": [network(6, NAMED), "the engine's"],
  "a container that may not be spoken to": [CUT_OFF, CUT_OFF],
};

/** Of the one who is spoken to: the kernel remembers who had one before. */
let port = 7100;

/** A container, with the sandbox that it is in. */
interface Container extends Place {
  readonly sandbox: FakeSandbox;
}

describe("isolation, tried with packets where nobody else drops any", () => {
  let site: Site;
  let host: Place;
  const containers: Container[] = [];
  const listeners: ChildProcess[] = [];

  before(async () => {
    mustBeIsolated();
    for (const name of ["ipv4/ip_forward", "ipv6/conf/all/forwarding"]) await setSysctl(`net/${name}`, "1");
    for (const which of ["all", "default"]) await setSysctl(`net/ipv4/conf/${which}/rp_filter`, "0");
  });
  beforeEach(async () => {
    site = new Site();
    site.engineBridges = [DOCKER0];
    await site.reconcile();
    host = placeIn("/proc/self/ns/net");
  });
  afterEach(async () => {
    assert.deepEqual(await site.reconcile(), {}, "what was made is what the reconciler wants");
    leave(host);
    for (const listener of listeners.splice(0)) listener.kill();
    for (const container of containers.splice(0)) {
      leave(container);
      await container.sandbox.end();
    }
    await site.stop();
    await wipe();
  });

  it("lets host access connect the host with the network, and no other network with it", async () => {
    await plugWire();
    const options = { backend: "macvlan", parent: "wire0", host_access: "on" };
    await site.driver.createNetwork(network(1, { options }));
    await site.driver.createNetwork(network(2, { options: UNPROTECTED }));
    const [lan, bridged, engine] = [
      await container(endpointOf(1)),
      await container(endpointOf(2)),
      await engineContainer(),
    ];
    await site.driver.ports.publish(id(2), id(1002), PORTS);
    // The host is no gateway of the LAN's, but a container can make it its own.
    for (const [family, via] of [
      ["-4", "10.1.0.200"],
      ["-6", "fd01::200"],
    ] as const)
      await lan.sandbox.ip(`${family} route replace default via ${via}`);
    assert.deepEqual(
      await arrivals({
        "host > lan": { from: host, to: addresses(1), at: lan },
        "lan > host": { from: lan, to: ["10.1.0.200", "fd01::200"], at: host },
        "lan > what bridged publishes": {
          ...{ from: lan, to: ["10.1.0.200", "fd01::200"], at: bridged },
          ports: PUBLISHED,
        },
        "host > bridged": { from: host, to: addresses(2), at: bridged },
        "host > engine": { from: host, to: addresses(5), at: engine },
        "bridged > lan": { from: bridged, to: addresses(1), at: lan },
        "engine > lan": { from: engine, to: addresses(1), at: lan },
        "lan > bridged": { from: lan, to: addresses(2), at: bridged },
        "lan > engine": { from: lan, to: addresses(5), at: engine },
      }),
      {
        "host > lan": EVERYTHING,
        "lan > host": EVERYTHING,
        "lan > what bridged publishes": NOT_PING,
        "host > bridged": EVERYTHING,
        "host > engine": EVERYTHING,
        "bridged > lan": [],
        "engine > lan": [],
        "lan > bridged": [],
        "lan > engine": [],
      },
    );
  });

  for (const family of FAMILIES)
    for (const kind of ["a network", "an internal network", "a network on an adopted bridge"] as const)
      it(`keeps in the IPv${String(family)} of ${kind} that has none`, async () => {
        const adopted = kind === "a network on an adopted bridge";
        await plugWire();
        const bridge = adopted ? await ownBridge() : bridgeName(id(3));
        const without = network(3, {
          ...(family === 4 ? { ipv4: [] } : { ipv6: [] }),
          internal: kind === "an internal network",
          options: adopted ? { "com.docker.network.bridge.name": bridge } : {},
        });
        await site.driver.createNetwork(network(2, { options: UNPROTECTED }));
        await site.driver.createNetwork(without);
        const inside = await container(endpointWith(family === 4 ? 6 : 4, 3));
        const [other, engine, outside] = [
          await container(endpointOf(2)),
          await engineContainer(),
          await outsider(),
        ];
        await pretend(inside, family, (await ipLink(bridge))?.address ?? assert.fail());
        const all = EVERYTHING.filter((what) => what.endsWith(String(family)));
        const itsOwn = adopted ? all : [];
        const at = (number: number) => [addresses(number)[family === 4 ? 0 : 1]];
        assert.deepEqual(
          await arrivals({
            "host > other": { from: host, to: at(2), at: other },
            "host > engine": { from: host, to: at(5), at: engine },
            "inside > host": { from: inside, to: [family === 4 ? "10.5.0.1" : "fd05::1"], at: host },
            "inside > host's loopback": { from: inside, to: family === 4 ? ["127.0.0.2"] : [], at: host },
            "inside > outside": { from: inside, to: at(1), at: outside },
            "inside > other": { from: inside, to: at(2), at: other },
            "inside > engine": { from: inside, to: at(5), at: engine },
          }),
          {
            "host > other": all,
            "host > engine": all,
            "inside > host": itsOwn,
            "inside > host's loopback": [],
            "inside > outside": itsOwn,
            "inside > other": [],
            "inside > engine": [],
          },
        );
      });

  for (const [family, other] of [
    [4, 6],
    [6, 4],
  ] as const)
    it(`relays nothing of an internal network's IPv${String(other)} to a container that has IPv${String(family)} only`, async () => {
      await site.driver.createNetwork(network(1));
      await site.driver.createNetwork(network(2, family === 4 ? { ipv6: [] } : { ipv4: [] }));
      await site.driver.createNetwork(network(3, { internal: true }));
      const [beside, inside] = [await container(endpointOf(1)), await container(endpointOf(3))];
      const web = await container(endpointWith(family, 2));
      await site.driver.ports.publish(id(2), id(1002), PORTS);
      const gateway = (number: number) => [
        other === 4 ? `10.${String(number)}.0.1` : `fd0${String(number)}::1`,
      ];
      const all = EVERYTHING.filter((what) => what.endsWith(String(other)));
      assert.deepEqual(
        await arrivals({
          "inside > host": { from: inside, to: gateway(3), at: host },
          "inside > what web publishes": { from: inside, to: gateway(3), at: host, ports: PUBLISHED },
        }),
        { "inside > host": all, "inside > what web publishes": [`ping${String(other)}`] },
      );
      assert.deepEqual(web[family].hear(), []);
      const way = { from: beside, to: gateway(1), at: host, ports: PUBLISHED };
      assert.deepEqual(await arrivals({ way }), { way: all });
      assert.notDeepEqual(web[family].hear(), []);
    });

  for (const family of FAMILIES)
    it(`relays nothing that is sent to everybody, from an internal network in another one's name or from the same one, IPv${String(family)}`, async () => {
      const apart = { "com.docker.network.bridge.enable_icc": "false" };
      await site.driver.createNetwork(network(2, { options: apart }));
      await site.driver.createNetwork(network(3, { internal: true }));
      const [web, inside] = [await container(endpointOf(2)), await container(endpointOf(3))];
      const beside = await container({ ...endpointOf(2), ...BESIDE_2, id: id(1006) });
      await site.driver.ports.publish(id(2), id(1002), PORTS);
      for (const cidr of [BESIDE_2.ipv4, BESIDE_2.ipv6])
        await inside.sandbox.ip(`address add ${cidr} dev eth0 nodad noprefixroute`);
      const from = bare(BESIDE_2[`ipv${family}`]);
      await shout(inside, from);
      assert.deepEqual(web[family].hear(), []);
      await shout(beside, from);
      assert.deepEqual(web[family].hear(), []);
      const to = [family === 4 ? "10.2.0.1" : "fd02::1"];
      await arrivals({ way: { from: beside, to, at: host, ports: PUBLISHED } });
      assert.notDeepEqual(web[family].hear(), []);
    });

  for (const family of FAMILIES)
    for (const [whose, name] of [
      ["another network's", undefined],
      ["an internal network's", undefined],
      ["the engine's", undefined],
      ["the engine's, from a bridge with a name of its own", "lab"],
    ] as const)
      it(`passes nothing by a connection that one begins in a container's name which is ${whose}, IPv${String(family)}`, async () => {
        const options = name ? { "com.docker.network.bridge.name": name } : {};
        await site.driver.createNetwork(network(1, { options }));
        await site.driver.createNetwork(network(2, { internal: whose === "an internal network's" }));
        const isEngines = whose.startsWith("the engine's");
        const one = await container(endpointOf(1));
        const other = isEngines ? await engineContainer() : await container(endpointOf(2));
        const at = (number: number) => addresses(number)[family === 4 ? 0 : 1];
        const victim = { address: at(isEngines ? 5 : 2), port: 53 };
        const heard = await hearing(other.sandbox.path, family, victim.port);
        const own = await hearing(one.sandbox.path, family, 7000, "answers");
        const mac = (await ipLink(name ?? bridgeName(id(1))))?.address ?? assert.fail();
        await sendForged(one.sandbox.path, mac, victim, { address: at(1), port: 7000 }, "forged");
        await sleep(FORGED_MS);
        assert.equal(heard(), "");
        // From its own network the same is heard, so it is not the frame that is wrong.
        const beside = { address: at(1).replace(/2$/, "9"), port: 53 };
        await sendForged(one.sandbox.path, mac, beside, { address: at(1), port: 7000 }, "beside");
        await until("that is heard", () => Promise.resolve(own().endsWith("beside")));
      });

  for (const family of FAMILIES)
    for (const name of [undefined, "lab"])
      it(`lets nothing out that a container sends in the name of the engine's, IPv${String(family)}${name ? ", from a bridge with a name of its own" : ""}`, async () => {
        await plugWire();
        const options = name ? { [BRIDGE_NAME]: name } : {};
        await site.driver.createNetwork(network(2, { options }));
        const one = await container(endpointOf(2));
        site.engineBridges = [{ ...DOCKER0, subnets: ["10.5.0.0/16", "fd05::/64"] }];
        await engineContainer();
        const outside = await outsider();
        const heard = await hearing(outside.sandbox.path, family, 53);
        const mac = (await ipLink(name ?? bridgeName(id(2))))?.address ?? assert.fail();
        const at = (number: number, its: number) => ({
          address: addresses(number)[family === 4 ? 0 : 1],
          port: its,
        });
        await sendForged(one.sandbox.path, mac, at(5, 7000), at(1, 53), "forged");
        await sleep(FORGED_MS);
        assert.equal(heard(), "");
        await sendForged(one.sandbox.path, mac, at(2, 7000), at(1, 53), "its own");
        await until("that is heard", () => heard() === "its own");
      });

  for (const [whose, [from, to]] of Object.entries(INTRUSIONS))
    it(`lets nobody speak in the name of the host or an outsider to ${whose}`, async () => {
      await plugWire();
      for (const one of new Set([from, to])) if (one !== "the engine's") await site.driver.createNetwork(one);
      const there = to === "the engine's" ? await engineContainer() : await container(endpointOf(2));
      const intruder =
        from === "the engine's"
          ? await engineContainer()
          : await container(from === to ? { ...endpointOf(2), ...BESIDE_2, id: id(1006) } : endpointOf(6));
      const outside = await outsider();
      const bridgeMacs = await Promise.all([from, to].map(macOf));
      const send = (who: Container, mac: string | undefined, ...[one, other]: [End, End]) =>
        sendForged(who.sandbox.path, mac ?? assert.fail(), one, other, "forged");
      const intrude = async (family: Family) => {
        const at = (number: number) => addresses(number)[family === 4 ? 0 : 1];
        const mine = { address: at(to === "the engine's" ? 5 : 2), port: (port += 1) };
        const theirs = { address: at(1), port: 53 };
        const gateway = { address: mine.address.replace(/2$/, "1"), port: 53 };
        const host = { address: family === 4 ? "10.1.0.200" : "fd01::200", port: mine.port };
        const heard = await hearing(there.sandbox.path, family, mine.port);
        for (const peer of [gateway, theirs]) await send(there, bridgeMacs[1], mine, peer);
        await send(intruder, bridgeMacs[0], gateway, mine);
        await send(intruder, bridgeMacs[0], theirs, host);
        await sleep(FORGED_MS);
        assert.equal(heard(), "", `IPv${String(family)}`);
        if (to === "the engine's" || to.internal) return;
        // The one who was spoken to is heard, so it is not the frame that is wrong.
        await send(outside, (await ipLink("wire0"))?.address, theirs, host);
        await until("that is heard", () => Promise.resolve(heard() === "forged"));
      };
      await Promise.all(FAMILIES.map(intrude));
    });

  for (const family of FAMILIES)
    it(`has the host answer no outsider in whose name an internal network speaks, IPv${String(family)}`, async () => {
      await plugWire();
      await site.driver.createNetwork(network(2));
      await site.driver.createNetwork(network(3, { internal: true }));
      const [free, inside] = [await container(endpointOf(2)), await container(endpointOf(3))];
      const outside = await outsider();
      const heard = await hearing(outside.sandbox.path, family, 53);
      await hearing("/proc/self/ns/net", family, 7000, "answers");
      const from = { address: addresses(1)[family === 4 ? 0 : 1], port: 53 };
      const gateway = (number: number) => ({
        address: family === 4 ? `10.${String(number)}.0.1` : `fd0${String(number)}::1`,
        port: 7000,
      });
      const mac = async (number: number) => (await ipLink(bridgeName(id(number))))?.address ?? assert.fail();
      await sendForged(inside.sandbox.path, await mac(3), from, gateway(3), "forged");
      await sleep(FORGED_MS);
      assert.equal(heard(), "");
      await sendForged(free.sandbox.path, await mac(2), from, gateway(2), "forged");
      await until("that is answered", () => Promise.resolve(heard() === "query"));
    });

  for (const [kind, options] of [
    ["a network", {}],
    ["an unprotected network", UNPROTECTED],
  ] as const)
    it(`keeps what ${kind} publishes from the engine's internal networks, and from no other`, async () => {
      await site.driver.createNetwork(network(2, { options }));
      const [web, engine] = [await container(endpointOf(2)), await engineContainer()];
      await site.driver.ports.publish(id(2), id(1002), PORTS);
      const way = { from: engine, to: ["10.5.0.1", "fd05::1"], at: web, ports: PUBLISHED };
      assert.deepEqual(await arrivals({ way }), { way: NOT_PING });
      site.engineBridges = [{ ...DOCKER0, internal: true }];
      await site.reconcile();
      const gateway = { from: engine, to: ["10.5.0.1", "fd05::1"], at: host };
      assert.deepEqual(await arrivals({ way, gateway }), { way: [], gateway: EVERYTHING });
    });

  /** Has somebody listen, and answer whatever it hears if it is told to. @returns what it has heard so far */
  async function hearing(netns: string, family: Family, port: number, answers = ""): Promise<() => string> {
    const script = `
      const socket = require("dgram").createSocket("udp${String(family)}", (text, { port, address }) => {
        process.stdout.write(text);
        if ("${answers}") socket.send("query", port, address);
      });
      socket.bind(${String(port)}, () => process.stderr.write("listens"));`;
    const child = spawn("nsenter", [`--net=${netns}`, process.execPath, "-e", script]);
    listeners.push(child);
    let text = "";
    child.stdout.on("data", (chunk: Buffer) => (text += chunk.toString()));
    await once(child.stderr, "data");
    return () => text;
  }

  /** Sends a datagram for a published port to everybody on the container's bridge, and gives it time to be relayed. */
  async function shout({ sandbox }: Container, from: string): Promise<void> {
    const [type, everybody] = from.includes(":") ? ["udp6", "ff02::1%eth0"] : ["udp4", "255.255.255.255"];
    const script = `
      const socket = require("dgram").createSocket("${type}");
      socket.bind(0, "${from}", () => {
        socket.setBroadcast(true);
        socket.send("x", ${String(PUBLISHED.udp)}, "${everybody}", () => socket.close());
      });`;
    await run(["nsenter", `--net=${sandbox.path}`, process.execPath, "-e", script]);
    await sleep(RELAYED_MS);
  }

  /** MAC of a network's bridge. */
  async function macOf(one: NetworkRequest | "the engine's"): Promise<string | undefined> {
    const name = one === "the engine's" ? DOCKER0.name : (one.options[BRIDGE_NAME] ?? bridgeName(one.id));
    return (await ipLink(name))?.address;
  }

  /** A bridge of somebody else's, with addresses that no network has. @returns its name */
  async function ownBridge(): Promise<string> {
    const addresses = FAMILIES.map((family) => `address add ${PRETENDED[family].gateway} dev own-br`);
    await ip("link add own-br up type bridge", ...addresses);
    return "own-br";
  }

  /** Somebody on the wire, at the addresses that number 1 would have. */
  async function outsider(): Promise<Container> {
    const sandbox = await FakeSandbox.start();
    // Before Linux 6.2 a link that is up keeps its name.
    await ip("link set wire1 down", `link set wire1 name tsc${id(1001).slice(0, 12)}`);
    await sandbox.take(endpointOf(1), "eth0");
    const made = await place(sandbox);
    const way = { from: host, to: addresses(1), at: made };
    await until("the wire to carry", async () =>
      isDeepStrictEqual(await arrivals({ way }), { way: EVERYTHING }),
    );
    return made;
  }

  /** A container gives itself addresses, and knows the MAC of a bridge that is to forward what it sends. */
  async function pretend({ sandbox }: Container, family: Family, mac: string): Promise<void> {
    const { own, gateway } = PRETENDED[family];
    const route = `via ${bare(gateway)} dev eth0`;
    await sandbox.ip(`address add ${own} dev eth0 nodad`);
    await sandbox.ip(`neigh add ${bare(gateway)} lladdr ${mac} dev eth0`);
    await sandbox.ip(`route add default ${route}`);
    if (family === 4) await sandbox.ip(`route add 127.0.0.2/32 ${route} src ${bare(own)} table local`);
  }

  /** Makes an endpoint and its container, as an engine does. */
  async function container(endpoint: EndpointRequest): Promise<Container> {
    await site.driver.createEndpoint(endpoint);
    const sandbox = await FakeSandbox.start();
    await site.driver.join(endpoint.network, endpoint.id, sandbox.path);
    await sandbox.take(endpoint, "eth0");
    return await place(sandbox);
  }

  /** A container of the engine's own. */
  async function engineContainer(): Promise<Container> {
    const sandbox = await FakeSandbox.start();
    await ip(
      "link add docker0 up type bridge",
      `link add port up master docker0 type veth peer name tsc${id(1005).slice(0, 12)}`,
      "address add 10.5.0.1/16 dev docker0",
      "address add fd05::1/64 dev docker0 nodad",
    );
    await sandbox.take(endpointOf(5), "eth0");
    await site.reconcile();
    return await place(sandbox);
  }

  async function place(sandbox: FakeSandbox): Promise<Container> {
    const made = { ...placeIn(sandbox.path), sandbox };
    containers.push(made);
    return made;
  }
});

/** Network 10.NUMBER.0.0/16 and fd0NUMBER::/64. */
function network(number: number, different: Partial<NetworkRequest> = {}): NetworkRequest {
  return {
    ...{ id: id(number), options: {}, internal: false },
    ipv4: [{ subnet: `10.${number}.0.0/16`, gateway: `10.${number}.0.1/16`, aux: {} }],
    ipv6: [{ subnet: `fd0${number}::/64`, gateway: `fd0${number}::1/64`, aux: {} }],
    ...different,
  };
}

/** What is on a network of that number. */
function endpointOf(number: number): EndpointRequest {
  const [v4, v6] = addresses(number);
  return { network: id(number), id: id(1000 + number), ipv4: `${v4}/16`, ipv6: `${v6}/64` };
}

/** The same with one family only. */
function endpointWith(family: Family, number: number): EndpointRequest {
  const { ipv4 = "", ipv6 = "", ...rest } = endpointOf(number);
  return { ...rest, ...(family === 4 ? { ipv4 } : { ipv6 }) };
}

function addresses(number: number): [string, string] {
  return [`10.${number}.0.2`, `fd0${number}::2`];
}
