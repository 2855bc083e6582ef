import assert from "node:assert/strict";
import { connect } from "node:net";
import { Network } from "../../src/model.ts";
import type { Endpoint } from "../../src/model.ts";
import { run } from "../lab/command.ts";
import { sendUdp, trackFlows, udpFlows, untranslatedFlows } from "../support/flows.ts";
import {
  type HostState,
  hostState,
  ip,
  ipAddresses,
  ipLink,
  mustBeIsolated,
  readSysctl,
  ruleLines,
  setSysctl,
  wipe,
} from "../support/isolated.ts";
import { NETWORKS, PORTS, bridgeOf, endpointOf } from "../support/networks.ts";
import { id } from "../support/requests.ts";
import { Site } from "../support/site.ts";
import { until } from "../support/until.ts";

const HOST_END = `tsh${id(2).slice(0, 12)}`;
const CONTAINER_END = `tsc${id(2).slice(0, 12)}`;

/** Somebody else's links and rules, as on a host with an engine, a firewall and a VPN. */
const FOREIGN_RULES = `*mangle
:MINE - [0:0]
-A FORWARD -i lo -j MINE
-A MINE -m comment --comment "tsnet is not in here" -j RETURN
COMMIT
*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
COMMIT
*filter
:FORWARD DROP [0:0]
:DOCKER-USER - [0:0]
-A INPUT -i lo -j ACCEPT
-A FORWARD -j DOCKER-USER
-A FORWARD -i docker0 -j ACCEPT
-A DOCKER-USER -j RETURN
COMMIT
`;

async function makeForeign(): Promise<void> {
  await ip(
    "link add docker0 type bridge",
    "addr add 172.17.0.1/16 dev docker0",
    "link add own-br type bridge",
    "link set own-br address 02:00:00:00:00:01 up",
    "addr add 192.0.2.1/24 dev own-br",
    "link add vpn0 type veth peer name vpn1",
    "link set vpn0 alias mine master own-br",
    // Takes packets of 64 KiB at most, as most cards do, and so its bridge does.
    "link add vpn2 type vxlan id 9 dstport 4789",
    "link set vpn2 master own-br",
  );
  await run(["iptables-restore", "--noflush"], { input: FOREIGN_RULES });
  await run(["ip6tables-restore", "--noflush"], {
    input: FOREIGN_RULES.replace("172.17.0.0/16", "fd17::/64"),
  });
}

describe("bridge backend on the kernel", () => {
  let site: Site;
  let atFirst: HostState;

  before(async () => {
    mustBeIsolated();
    await setSysctl("net/ipv4/ip_forward", "1");
    await setSysctl("net/ipv6/conf/all/forwarding", "1");
  });
  beforeEach(async () => {
    await makeForeign();
    atFirst = await hostState();
    site = new Site();
  });
  afterEach(async () => {
    await site.stop();
    await wipe();
  });

  for (const [kind, network] of Object.entries(NETWORKS)) {
    const bridge = bridgeOf(network);
    const adopted = bridge === "own-br";
    const endpoint = endpointOf(network);
    const families = ([4, 6] as const).filter(
      (family) => (family === 4 ? network.ipv4 : network.ipv6).length > 0,
    );
    const make = async () => {
      await site.driver.createNetwork(network);
      await site.driver.createEndpoint(endpoint);
      await site.driver.ports.publish(network.id, endpoint.id, PORTS);
    };

    describe(`a network that is ${kind}`, () => {
      it("has its bridge: up, marked, with a MAC of its own, the MTU and the gateways' addresses", async () => {
        await site.driver.createNetwork(network);
        const link = await ipLink(bridge);
        assert.ok(link);
        assert.ok(link.flags.includes("UP"));
        assert.equal(link.linkinfo?.info_kind, "bridge");
        assert.equal(link.mtu, Number(network.options["com.docker.network.driver.mtu"] ?? 1500));
        const own =
          kind === "isolated" ? [] : [...network.ipv4, ...network.ipv6].map(({ gateway }) => gateway);
        assert.deepEqual(await ipAddresses(bridge), [...(adopted ? ["192.0.2.1/24"] : []), ...own].sort());
        if (adopted) return;
        assert.equal(link.ifalias, `tsnet network ${network.id}`);
        assert.equal(link.group, "29811");
        assert.match(link.address, /^02:/);
        const hostHasIpv6 = families.includes(6) && kind !== "isolated";
        assert.equal(readSysctl(`net/ipv6/conf/${bridge}/disable_ipv6`), hostHasIpv6 ? "0" : "1");
        assert.equal(readSysctl(`net/ipv6/conf/${bridge}/accept_ra`), "0");
      });

      it("has its rules in every family that it has addresses of, and at most one in the other", async () => {
        await site.driver.createNetwork(network);
        for (const family of [4, 6] as const) {
          const marked = (await ruleLines(family)).filter((line) => line.includes("--comment tsnet-000001"));
          assert.equal(marked.length > 1, families.includes(family), `IPv${family}`);
          const wanted = site.driver
            .rules(Network.parse(site.records()[`network/${network.id}`]))
            .filter((rule) => rule.family === family);
          assert.deepEqual(
            marked.sort(),
            wanted.map(({ table, name, spec }) => `${table} -A ${name} ${spec}`).sort(),
          );
        }
      });

      it("has for an endpoint a port of the bridge and a link for the sandbox, with the MAC it told", async () => {
        await site.driver.createNetwork(network);
        const mac = await site.driver.createEndpoint(endpoint);
        const [near, far] = [await ipLink(HOST_END), await ipLink(CONTAINER_END)];
        assert.ok(near && far);
        assert.ok(near.flags.includes("UP"));
        assert.equal(near.master, bridge);
        assert.equal(near.ifalias, `tsnet endpoint ${endpoint.id}`);
        assert.equal(near.linkinfo?.info_slave_data?.isolated, kind === "icc=false");
        assert.equal(far.address, mac);
        assert.deepEqual([near.mtu, far.mtu], Array(2).fill((await ipLink(bridge))?.mtu));
        // There is no default route here, so nothing is known of a way out.
        assert.equal(far.gso_max_size, network.internal ? near.gso_max_size : 65_536);
        assert.deepEqual(await ipAddresses(HOST_END), []);
      });

      it("has its ports published in nat, or not at all if it is internal", async () => {
        await make();
        for (const family of families) {
          const rules = (await ruleLines(family)).filter((line) => / --dport (8080|5353|80|53) /.test(line));
          const leading = rules.filter((line) => /TSNET-OPEN|(\]|\.\d+):\d+$/.test(line));
          assert.equal(leading.length, network.internal ? 0 : PORTS.length, rules.join("\n"));
          const served = rules.filter((line) => line.startsWith("filter "));
          assert.equal(served.length, kind === "icc=false" ? PORTS.length : 0, rules.join("\n"));
          const others = rules.filter((line) => line.includes(" ! -s "));
          const isOwnRelayed = kind !== "icc=false" && kind !== "routed" && !network.internal;
          assert.equal(others.length, isOwnRelayed ? PORTS.length : 0, rules.join("\n"));
        }
        await site.driver.ports.revoke(network.id, endpoint.id);
        for (const family of families) assert.doesNotMatch((await ruleLines(family)).join("\n"), /--dport/);
      });

      it("is not changed by being made a second time, nor after a restart", async () => {
        await make();
        const [made, records] = [await hostState(), site.records()];
        await make();
        await site.restart();
        await make();
        assert.deepEqual(await hostState(), made);
        assert.deepEqual(site.records(), records);
        assert.deepEqual(await site.reconcile(), {});
        assert.deepEqual(await hostState(), made);
      });

      it("leaves the host as it was, others' links and rules to the letter, in whatever order it is deleted", async () => {
        await make();
        assert.notDeepEqual(await hostState(), atFirst);
        await site.driver.deleteEndpoint(network.id, endpoint.id);
        await site.driver.deleteNetwork(network.id);
        assert.deepEqual(await hostState(), atFirst);
        await make();
        await site.restart();
        await site.driver.deleteNetwork(network.id);
        await site.driver.deleteNetwork(network.id);
        assert.deepEqual(await hostState(), atFirst);
        assert.deepEqual(site.records(), {});
      });
    });
  }

  it("takes the MTU of the default route's link, and the lower metric of two", async () => {
    await ip(
      "link set vpn1 mtu 1390 up",
      "link set vpn0 up",
      "addr add 198.51.100.1/24 dev vpn1",
      "route add default via 198.51.100.2 dev vpn1 metric 10",
      "route add default via 192.0.2.2 dev own-br metric 20",
    );
    await site.driver.createNetwork(NETWORKS["dual stack"] ?? assert.fail());
    assert.equal((await ipLink(`ts-${id(1).slice(0, 12)}`))?.mtu, 1390);
  });

  it("refuses a subnet that the host has a route to, and makes nothing", async () => {
    const network = NETWORKS["dual stack"] ?? assert.fail();
    const overlapping = {
      ...network,
      ipv4: [{ subnet: "172.17.128.0/24", gateway: "172.17.128.1/24", aux: {} }],
    };
    await ip("link set docker0 up");
    await assert.rejects(
      site.driver.createNetwork(overlapping),
      /172\.17\.128\.0\/24 overlaps the host's route to 172\.17\.0\.0\/16/,
    );
    assert.deepEqual(site.records(), {});
    await site.driver.createNetwork(network);
  });

  it("refuses a subnet that the host has a route to by several links", async () => {
    await ip(
      "link set own-br up",
      "link set vpn0 up",
      "link set vpn1 up",
      "addr add 198.51.100.1/24 dev vpn1",
      "route add 10.1.64.0/20 nexthop via 198.51.100.2 dev vpn1 nexthop via 192.0.2.2 dev own-br",
    );
    await assert.rejects(
      site.driver.createNetwork(NETWORKS["dual stack"] ?? assert.fail()),
      /10\.1\.0\.0\/16 overlaps the host's route to 10\.1\.64\.0\/20/,
    );
  });

  for (const [subnet, range] of [
    ["0.0.0.0/24", "0.0.0.0/32"],
    ["127.3.0.0/24", "127.0.0.0/8"],
    ["224.1.0.0/24", "224.0.0.0/4"],
    ["ff05::/64", "ff00::/8"],
  ] as const)
    it(`refuses ${subnet}, which no container can be in, and makes nothing`, async () => {
      const network = NETWORKS["dual stack"] ?? assert.fail();
      const pool = [{ subnet, aux: {} }];
      await assert.rejects(
        site.driver.createNetwork({
          ...network,
          ...(subnet.includes(":") ? { ipv6: pool } : { ipv4: pool }),
        }),
        new RegExp(`subnet ${subnet} overlaps ${range}, `),
      );
      assert.deepEqual(site.records(), {});
    });

  it("takes a subnet out of a VPN's wide routes, but not out of a wide network that the host is on", async () => {
    const network = NETWORKS["dual stack"] ?? assert.fail();
    await ip("link set vpn0 up", "link set vpn1 up", "addr add 192.0.2.9/24 dev vpn1");
    await ip(...["0.0.0.0/1", "128.0.0.0/1", "10.0.0.0/8"].map((subnet) => `route add ${subnet} dev vpn1`));
    await ip("route add fc00::/7 dev vpn1");
    await site.driver.createNetwork(network);
    await site.driver.deleteNetwork(network.id);
    await ip("addr add 10.7.0.1/8 dev vpn1");
    await assert.rejects(
      site.driver.createNetwork(network),
      /10\.1\.0\.0\/16 overlaps the host's route to 10\.0\.0\.0\/8/,
    );
  });

  it("refuses a bridge name that is a link of another kind, or another network's", async () => {
    const network = (name: string, number: number) => ({
      ...(NETWORKS["dual stack"] ?? assert.fail()),
      ...{
        id: id(number),
        ipv6: [],
        ipv4: [{ subnet: `10.${number}.0.0/16`, gateway: `10.${number}.0.1/16`, aux: {} }],
      },
      options: { "com.docker.network.bridge.name": name },
    });
    await assert.rejects(
      site.driver.createNetwork(network("vpn1", 3)),
      /link vpn1 exists and is a veth, not a bridge/,
    );
    await ip("link property add dev own-br altname the-br");
    await assert.rejects(
      site.driver.createNetwork(network("the-br", 3)),
      /name is "the-br", but must be "own-br": iptables knows no altnames/,
    );
    await site.driver.createNetwork(network("new-br", 3));
    await assert.rejects(
      site.driver.createNetwork(network("new-br", 4)),
      /bridge new-br belongs to network 000003/,
    );
    assert.deepEqual(Object.keys(site.records()), [`network/${id(3)}`]);
    const both = await Promise.allSettled([5, 6].map((n) => site.driver.createNetwork(network("two-br", n))));
    assert.deepEqual(
      both.map(({ status }) => status),
      ["fulfilled", "rejected"],
    );
    assert.deepEqual(Object.keys(site.records()), [`network/${id(3)}`, `network/${id(5)}`]);
  });

  it("refuses a bridge of the engine's, and one that takes only smaller packets than its containers are to send", async () => {
    const adopted = NETWORKS["on an adopted bridge"] ?? assert.fail();
    const before = await hostState();
    site.engineHasBridge = "own-br";
    await assert.rejects(
      site.driver.createNetwork(adopted),
      /^ConflictError: bridge own-br belongs to a network of the engine's; choose another name$/,
    );
    site.engineHasBridge = undefined;
    await ip("link set own-br mtu 1400");
    const options = { ...adopted.options, "com.docker.network.driver.mtu": "1500" };
    await assert.rejects(
      site.driver.createNetwork({ ...adopted, options }),
      /driver\.mtu is 1500, but bridge own-br has an MTU of 1400; raise that first \(ip link set own-br mtu 1500\)/,
    );
    await ip("link set own-br mtu 1500");
    assert.deepEqual(await hostState(), before);
    await site.driver.createNetwork({ ...adopted, options });
  });

  it("publishes for IPv4 where the engine's option says and for IPv6 where its own does", async () => {
    const network = NETWORKS["dual stack"] ?? assert.fail();
    const key = "com.docker.network.bridge.host_binding_ipv4";
    const published = async (options: Record<string, string>) => {
      await site.driver.createNetwork({ ...network, options });
      await site.driver.createEndpoint(endpointOf(network));
      await site.driver.ports.publish(network.id, id(2), PORTS.slice(0, 1));
      const { ports } = site.records()[`endpoint/${network.id}/${id(2)}`] as Endpoint;
      await site.driver.deleteNetwork(network.id);
      return ports?.map(({ host }) => host?.address);
    };
    assert.deepEqual(await published({ publish: "all", [key]: "127.0.0.1" }), ["127.0.0.1", "::"]);
    assert.deepEqual(await published({ publish: "loopback", [key]: "0.0.0.0" }), ["0.0.0.0", "::1"]);
    assert.deepEqual(await published({ publish: "::1", [key]: "127.0.0.1" }), ["127.0.0.1", "::1"]);
    assert.deepEqual(await published({ [key]: "127.0.0.1" }), ["127.0.0.1"]);
    assert.deepEqual(await published({ [key]: "0.0.0.0" }), ["0.0.0.0", "::"]);
    assert.deepEqual(await published({ publish: "127.0.0.1" }), ["127.0.0.1"]);
  });

  it("refuses a bridge that has the gateway's address with another prefix length, and leaves that there", async () => {
    await ip("addr add fd01::1/128 dev own-br");
    await assert.rejects(
      site.driver.createNetwork(NETWORKS["on an adopted bridge"] ?? assert.fail()),
      /own-br has fd01::1\/128, but the network needs fd01::1\/64 on it; take it off/,
    );
    assert.ok((await ipAddresses("own-br")).includes("fd01::1/128"));
  });

  it("refuses a link of its own name that it has not made, and leaves it alone", async () => {
    const network = NETWORKS["dual stack"] ?? assert.fail();
    const endpoint = endpointOf(network);
    await site.driver.createNetwork(network);
    await ip(`link add ${HOST_END} type veth peer name other`);
    await assert.rejects(site.driver.createEndpoint(endpoint), /was not made by tsnet/);
    assert.ok(await ipLink(HOST_END));
    await site.driver.deleteEndpoint(network.id, endpoint.id);
    assert.ok(await ipLink(HOST_END));
  });

  it("hands none of its sockets to the programs it starts", async () => {
    const network = NETWORKS["dual stack"] ?? assert.fail();
    await site.driver.createNetwork(network);
    await site.driver.createEndpoint(endpointOf(network));
    await site.driver.ports.publish(network.id, id(2), PORTS);
    const { stdout } = await run(["ls", "-l", "/proc/self/fd"]);
    const sockets = stdout.split("\n").filter((line) => / ([3-9]|\d\d+) -> socket:/.test(line));
    assert.deepEqual(sockets, []);
    assert.match(stdout, / 1 -> /);
  });

  it("gives the ports of a container that went without a word to the next, right after a start too", async () => {
    const network = NETWORKS["dual stack"] ?? assert.fail();
    for (const number of [2, 3]) {
      await site.driver.createNetwork(network);
      await site.driver.createEndpoint(endpointOf(network, number));
      await site.driver.join(network.id, id(number), "/run/docker/netns/x");
      await site.driver.ports.publish(network.id, id(number), PORTS);
      const translations = (await ruleLines(4)).filter((rule) => /-j DNAT .*:/.test(rule));
      assert.deepEqual(translations.map((rule) => rule.replace(/.* /, "")).sort(), [
        `10.1.0.${number}:53`,
        `10.1.0.${number}:80`,
      ]);
      // The engine was killed: with the sandbox its end of the pair went, and so did the host's.
      await ip(`link delete tsh${id(number).slice(0, 12)}`);
      await site.restart();
    }
  });

  for (const [kind, published, others] of [
    ["dual stack", ["10.1.0.1", "fd01::1"], ["10.1.0.9", "fd01::9"]],
    ["routed", ["10.1.0.2", "fd01::2"], ["10.1.0.1", "10.1.0.9", "fd01::1", "fd01::9"]],
  ] as const)
    it(`has UDP looked at anew that is under way to what it publishes, and no other: ${kind}`, async () => {
      const network = NETWORKS[kind] ?? assert.fail();
      const port = 5353;
      const ports = PORTS.map((binding) => ({ ...binding, containerPort: port }));
      const leftAfter = async (change: () => Promise<unknown>) => {
        await sendUdp([...published, ...others].map((address) => ({ address, port })));
        await change();
        return [...new Set(udpFlows([port]))];
      };
      await site.driver.createNetwork(network);
      await site.driver.createEndpoint(endpointOf(network));
      await trackFlows();
      const left = others.map((address) => `${address} ${port}`);
      assert.deepEqual(await leftAfter(() => site.driver.ports.publish(network.id, id(2), ports)), left);
      assert.deepEqual(await leftAfter(() => site.driver.ports.revoke(network.id, id(2))), left);
    });

  it("has TCP tried again that found a port taken, but not translated", async () => {
    const network = NETWORKS["dual stack"] ?? assert.fail();
    await site.driver.createNetwork(network);
    await site.driver.createEndpoint(endpointOf(network));
    await trackFlows();
    await site.driver.ports.publish(network.id, id(2), PORTS);
    await run(["iptables", "-w", "-t", "nat", "-F"]);
    const client = connect(8080, "10.1.0.1");
    client.on("error", () => undefined);
    await until("the first packet to be dropped", () => untranslatedFlows(8080) === 1);
    assert.ok((await site.reconcile())["rules"]);
    // The client may have tried again by now, and then there is another one, which is translated.
    await until("its flow to be forgotten", () => untranslatedFlows(8080) === 0);
    client.destroy();
  });

  it("leaves nothing of a container's connections to the next one with its address, and all of that one's own", async () => {
    const network = NETWORKS["dual stack"] ?? assert.fail();
    const port = 5454;
    const [mine, others] = [
      ["10.1.0.2", "fd01::2"],
      ["10.1.0.9", "fd01::9"],
    ].map((addresses) => addresses.map((address) => ({ address, port })));
    const flows = () => [...new Set(udpFlows([port]))];
    await site.driver.createNetwork(network);
    await site.driver.createEndpoint(endpointOf(network));
    await trackFlows();
    await sendUdp([...(mine ?? []), ...(others ?? [])]);
    assert.equal(flows().length, 4);
    await site.driver.deleteEndpoint(network.id, id(2));
    await site.driver.createEndpoint({ ...endpointOf(network), id: id(3) });
    assert.deepEqual(flows(), [`10.1.0.9 ${port}`, `fd01::9 ${port}`]);
    await sendUdp(mine ?? []);
    await site.driver.createEndpoint(endpointOf(network, 4));
    assert.equal(flows().length, 4);
  });

  it("leaves a container its ports whose sandbox the engine has not made yet", async () => {
    const network = NETWORKS["dual stack"] ?? assert.fail();
    await site.driver.createNetwork(network);
    for (const number of [2, 3]) {
      await site.driver.createEndpoint(endpointOf(network, number));
      // The folder is there, as the engine's is.
      await site.driver.join(network.id, id(number), `/proc/self/not-yet-${String(number)}`);
    }
    await site.driver.ports.publish(network.id, id(2), PORTS);
    const before = await ruleLines(4);
    await assert.rejects(
      site.driver.ports.publish(network.id, id(3), PORTS),
      /the port is taken by endpoint/,
    );
    assert.deepEqual(await ruleLines(4), before);
  });

  it("leaves nothing of many networks and containers that came and went at the same time", async () => {
    const networks = [11, 12, 13, 14].map((number) => ({
      ...(NETWORKS["dual stack"] ?? assert.fail()),
      id: id(number),
      ipv4: [{ subnet: `10.${number}.0.0/16`, gateway: `10.${number}.0.1/16`, aux: {} }],
      ipv6: [{ subnet: `fd${number}::/64`, gateway: `fd${number}::1/64`, aux: {} }],
    }));
    await Promise.all(networks.map((network) => site.driver.createNetwork(network)));
    const before = await hostState();
    const lives = networks.flatMap((network, at) =>
      [2, 3, 4, 5, 6, 7, 8, 9].map(async (number) => {
        const endpoint = {
          network: network.id,
          id: id((at + 1) * 256 + number),
          ipv4: `10.${at + 11}.0.${number}/16`,
        };
        const hostPort = 9000 + at * 100 + number;
        await site.driver.createEndpoint(endpoint);
        await site.driver.join(network.id, endpoint.id, "/run/docker/netns/x");
        await site.driver.ports.publish(network.id, endpoint.id, [
          { protocol: "tcp", containerPort: 80, hostAddress: "", hostPort, hostPortEnd: hostPort },
        ]);
        assert.ok(await ipLink(`tsh${endpoint.id.slice(0, 12)}`));
        await site.driver.leave(network.id, endpoint.id);
        await site.driver.deleteEndpoint(network.id, endpoint.id);
      }),
    );
    await Promise.all(lives);
    assert.deepEqual(await site.reconcile(), {});
    const after = await hostState();
    const sorted = ({ links, addresses, rules }: HostState) => ({
      links,
      addresses,
      4: [...rules[4]].sort(),
      6: [...rules[6]].sort(),
    });
    assert.deepEqual(sorted(after), sorted(before));
    await Promise.all(networks.map((network) => site.driver.deleteNetwork(network.id)));
    assert.deepEqual(await hostState(), atFirst);
    assert.deepEqual(site.records(), {});
  });

  it("has containers where the MTU is so small that links have nothing of IPv6, and leaves nothing", async () => {
    const options = { "com.docker.network.driver.mtu": "1279" };
    const small = { ...(NETWORKS["IPv4 with two subnets"] ?? assert.fail()), options };
    await site.driver.createNetwork(small);
    await site.driver.createEndpoint(endpointOf(small));
    assert.equal((await ipLink(CONTAINER_END))?.mtu, 1279);
    await site.driver.deleteNetwork(small.id);
    assert.deepEqual(await hostState(), atFirst);
  });

  it("makes no router of a host that was none: what is not a container's is dropped", async () => {
    await setSysctl("net/ipv4/ip_forward", "0");
    await run(["iptables", "-P", "FORWARD", "ACCEPT"]);
    await site.driver.createNetwork(NETWORKS["IPv4 with two subnets"] ?? assert.fail());
    assert.equal(readSysctl("net/ipv4/ip_forward"), "1");
    assert.ok((await ruleLines(4)).includes("filter :FORWARD DROP"));
  });
});
