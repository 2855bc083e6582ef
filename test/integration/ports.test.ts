import assert from "node:assert/strict";
import { once } from "node:events";
import { type Server, createServer } from "node:net";
import { Reservations } from "../../src/kernel/reservations.ts";
import type { PortBinding } from "../../src/model.ts";
import { sendUdp, trackFlows, udpFlows } from "../support/flows.ts";
import { hostState, mustBeIsolated, plugWire, ruleLines, wipe } from "../support/isolated.ts";
import { NETWORKS, PORTS, endpointOf } from "../support/networks.ts";
import { id } from "../support/requests.ts";
import { Site } from "../support/site.ts";

const SANDBOX = "/run/docker/netns/2c1207509e31";

/** A binding of TCP to host ports, one of a range or the only one; 0 for any. */
function binding(containerPort: number, hostPort: number, hostPortEnd = hostPort): PortBinding {
  return { protocol: "tcp", containerPort, hostAddress: "", hostPort, hostPortEnd };
}

describe("the host's ports that a container is given", () => {
  const network = NETWORKS["dual stack"] ?? assert.fail();
  const [former, next] = [endpointOf(network, 2), endpointOf(network, 3)];
  let site: Site;

  /** Where the translations of IPv4 into containers lead, by the host's port. */
  const translations = async () => {
    const rules = (await ruleLines(4)).filter((rule) => /-j DNAT .*:/.test(rule));
    return rules.map((rule) => rule.replace(/.*--dport (\d+) .*--to-destination (.*)/, "$1 to $2")).sort();
  };

  before(mustBeIsolated);
  beforeEach(async () => {
    site = new Site();
    await site.driver.createNetwork(network);
    for (const endpoint of [former, next]) {
      await site.driver.createEndpoint(endpoint);
      await site.driver.join(network.id, endpoint.id, `${SANDBOX}${endpoint.id}`);
    }
  });
  afterEach(async () => {
    await site.stop();
    await wipe();
  });

  it("may be those of one that is deleted while they are asked for", async () => {
    await site.driver.ports.publish(network.id, former.id, PORTS);
    // The engine was killed, and hands the former's address out again: in order, but behind the first try.
    await Promise.all([
      site.driver.ports.publish(network.id, next.id, PORTS),
      site.driver.createEndpoint({ ...former, id: id(4) }),
    ]);
    assert.deepEqual(await translations(), ["5353 to 10.1.0.3:53", "8080 to 10.1.0.3:80"]);
  });

  it("stay its own while what is to take their place cannot be had", async () => {
    const [own, others] = [28080, 8080];
    await site.driver.ports.publish(network.id, former.id, [binding(80, own)]);
    await site.driver.ports.publish(network.id, next.id, [binding(80, others)]);
    await assert.rejects(
      site.driver.ports.publish(network.id, former.id, [binding(81, own), binding(82, others)]),
      /:8080\/tcp: the port is taken by endpoint/,
    );
    await assert.rejects(
      site.driver.ports.publish(network.id, next.id, [binding(80, own)]),
      /:28080\/tcp: the port is taken by endpoint/,
    );
    assert.deepEqual(await translations(), ["28080 to 10.1.0.2:80", "8080 to 10.1.0.3:80"]);
  });

  it("may be those that another one of the network is just giving back", async () => {
    await site.driver.ports.publish(network.id, former.id, PORTS);
    await Promise.all([
      site.driver.ports.revoke(network.id, former.id),
      site.driver.ports.publish(network.id, next.id, PORTS),
    ]);
    assert.deepEqual(await translations(), ["5353 to 10.1.0.3:53", "8080 to 10.1.0.3:80"]);
  });

  it("are those of a range or any that no other binding needs, in whatever order they are asked for", async () => {
    const bindings = [binding(82, 0), binding(81, 8000, 8001), binding(80, 8000)];
    for (const asked of [bindings, bindings.toReversed()]) {
      await site.driver.ports.publish(network.id, next.id, asked);
      const given = await translations();
      for (const wanted of ["8000 to 10.1.0.3:80", "8001 to 10.1.0.3:81"])
        assert.ok(given.includes(wanted), wanted);
      assert.equal(given.length, 3);
    }
  });

  it("are not given twice to one container", async () => {
    const asked = [80, 81].map((port) => ({ ...binding(port, 8000), hostAddress: "::1" }));
    await assert.rejects(
      site.driver.ports.publish(network.id, next.id, asked),
      /cannot publish \[::1\]:8000\/tcp: this container asks for it twice/,
    );
    const [everywhere, loopback] = ["", "127.0.0.1"].map((hostAddress) => ({
      ...binding(80, 8000),
      hostAddress,
    }));
    for (const overlapping of [
      [everywhere, loopback],
      [loopback, everywhere],
    ])
      await assert.rejects(
        site.driver.ports.publish(
          network.id,
          next.id,
          overlapping.map((one) => one ?? assert.fail()),
        ),
        /cannot publish [\d.]+:8000\/tcp: this container asks for it twice/,
      );
    assert.deepEqual(await translations(), []);
  });

  it("are found at once behind a hundred that others have", async () => {
    const servers: Server[] = [];
    try {
      for (let port = 9000; port < 9100; port += 1) {
        const server = createServer().listen(port, "0.0.0.0");
        servers.push(server);
        await once(server, "listening");
      }
      const time = async (action: () => Promise<unknown>) => {
        const start = performance.now();
        await action();
        return performance.now() - start;
      };
      const refused = await time(() =>
        assert.rejects(
          site.driver.ports.publish(network.id, next.id, [binding(80, 9050)]),
          /the port is taken by/,
        ),
      );
      const found = await time(() =>
        site.driver.ports.publish(network.id, next.id, [binding(80, 9000, 9100)]),
      );
      assert.deepEqual(await translations(), ["9100 to 10.1.0.3:80"]);
      assert.ok(found < 20 * refused, `${String(found)} ms, and ${String(refused)} ms to refuse one`);
    } finally {
      for (const server of servers) server.close();
    }
  });

  it("are told of, each with who has it, when a process took them while the daemon was down", async () => {
    await site.driver.ports.publish(network.id, next.id, [binding(80, 8000), binding(81, 8001)]);
    const servers = [8000, 8001].map(() => createServer());
    try {
      await site.restart(async () => {
        for (const [index, server] of servers.entries()) {
          server.listen(8000 + index, "0.0.0.0");
          await once(server, "listening");
        }
      });
      await site.reconcile();
      const told = site.reconciler.health.degraded.get(`endpoint ${next.id}`) ?? "";
      for (const port of [8000, 8001])
        // It is this one, which is not looked for.
        assert.match(told, new RegExp(`0\\.0\\.0\\.0:${port}/tcp: the port is taken by another process`));
    } finally {
      for (const server of servers) server.close();
    }
    await site.reconcile();
    assert.deepEqual([...site.reconciler.health.degraded], []);
  });

  it("stay one's that has lost them to a process, whatever address another one asks for", async () => {
    await site.driver.ports.publish(network.id, next.id, [binding(80, 8000)]);
    const server = createServer();
    try {
      await site.restart(async () => {
        server.listen(8000, "127.0.0.2");
        await once(server, "listening");
      });
      await site.reconcile();
      const asked = { ...binding(80, 8000), hostAddress: "127.0.0.1" };
      await assert.rejects(
        site.driver.ports.publish(network.id, former.id, [asked]),
        new RegExp(
          `cannot publish 127.0.0.1:8000/tcp: the port is taken by endpoint ${next.id.slice(0, 12)}`,
        ),
      );
    } finally {
      server.close();
    }
    await site.reconcile();
    assert.deepEqual([...site.reconciler.health.degraded], []);
  });

  it("are the first one's again of two that both have them on record, once the process that took them has ended", async () => {
    const reservations = new Reservations();
    const [all, some] = ["0.0.0.0", "127.0.0.1"].map(
      (address) => () => reservations.retake(address, { protocol: "tcp", address, port: 8000 }, []),
    );
    const server = createServer().listen(8000, "127.0.0.2");
    try {
      await once(server, "listening");
      assert.throws(() => all?.(), /taken by another process/);
      assert.throws(() => some?.(), /taken by 0\.0\.0\.0/);
      await new Promise((resolve) => server.close(resolve));
      assert.equal(all?.(), true);
      assert.throws(() => some?.(), /taken by 0\.0\.0\.0/);
    } finally {
      server.close();
      reservations.close();
    }
  });

  it("are what they were when others cannot take their place, whichever step fails", async function () {
    this.timeout(120_000);
    // On a second network, so that there is what all ports of the container share.
    await site.driver.createNetwork({
      ...{ id: id(5), options: {}, internal: false },
      ipv4: [{ subnet: "10.9.0.0/16", gateway: "10.9.0.1/16", aux: {} }],
      ipv6: [],
    });
    await site.driver.createEndpoint({ network: id(5), id: id(7), ipv4: "10.9.0.2/16" });
    await site.driver.join(id(5), id(7), `${SANDBOX}${next.id}`);
    // One leads elsewhere, one goes, and one comes.
    const own = [binding(81, 8001), binding(82, 8002)];
    const others = [binding(91, 8001), binding(83, 8003)];
    const publish = (bindings: PortBinding[]) => site.driver.ports.publish(network.id, next.id, bindings);
    await publish(own);
    site.faults.plan();
    await publish(others);
    // What cannot even be taken away cannot be put back.
    const steps = [...site.faults.calls.entries()].filter(([, call]) => call.startsWith("apply"));
    assert.ok(steps.length > 5);
    await publish(own);
    // What is put back is behind what stayed.
    const rulesNow = async () =>
      (await Promise.all([ruleLines(4), ruleLines(6)])).map((lines) => lines.sort());
    const [rules, records] = [await rulesNow(), site.records()];
    for (const [step, call] of steps)
      for (const moment of ["before", "after"] as const) {
        const what = `${call}, ${moment}`;
        site.faults.plan([step, moment]);
        await assert.rejects(publish(others), /fault (before|after) apply/, what);
        site.faults.plan();
        assert.deepEqual(await rulesNow(), rules, what);
        assert.deepEqual(site.records(), records, what);
        assert.deepEqual(await site.reconcile(), {}, what);
        for (const port of [8001, 8002])
          await assert.rejects(
            site.driver.ports.publish(network.id, former.id, [binding(80, port)]),
            new RegExp(`the port is taken by endpoint ${next.id.slice(0, 12)}`),
            what,
          );
        await site.driver.ports.publish(network.id, former.id, [binding(80, 8003)]);
        await site.driver.ports.revoke(network.id, former.id);
      }
  });

  it("have hundreds of flows of UDP looked at anew, and nobody else's", async () => {
    await trackFlows();
    const udp = [5353, 5354].map((port) => ({ ...binding(port, port), protocol: "udp" as const }));
    await site.driver.ports.publish(network.id, next.id, udp);
    const to = (address: string) => udp.map(({ hostPort: port }) => ({ address, port }));
    await sendUdp(Array.from({ length: 100 }, () => to("10.1.0.1")).flat());
    await sendUdp(to("10.1.0.9"));
    assert.equal(udpFlows([5353, 5354]).length, 202);
    await site.driver.ports.revoke(network.id, next.id);
    assert.deepEqual(udpFlows([5353, 5354]), ["10.1.0.9 5353", "10.1.0.9 5354"]);
  });

  it("are those of IPv4, too, of one with IPv6 only that is on a LAN without a gateway", async () => {
    await plugWire();
    const six = {
      ...(NETWORKS["IPv6 only"] ?? assert.fail()),
      id: id(5),
      ipv6: [{ subnet: "fd09::/64", gateway: "fd09::1/64", aux: {} }],
    };
    const lan = {
      id: id(6),
      options: { backend: "macvlan", parent: "wire0" },
      internal: false,
      ipv4: [{ subnet: "10.9.0.0/16", aux: {} }],
      ipv6: [],
    };
    for (const other of [six, lan]) await site.driver.createNetwork(other);
    await site.driver.createEndpoint({ network: lan.id, id: id(7), ipv4: "10.9.0.2/16" });
    await site.driver.createEndpoint({ network: six.id, id: id(8), ipv6: "fd09::2/64" });
    for (const [other, endpoint] of [
      [lan, id(7)],
      [six, id(8)],
    ] as const)
      await site.driver.join(other.id, endpoint, SANDBOX);
    await site.driver.ports.publish(six.id, id(8), [binding(80, 8080)]);
    const record = site.records()[`endpoint/${six.id}/${id(8)}`] as {
      ports: { host: { address: string } }[];
    };
    assert.deepEqual(record.ports.map(({ host }) => host.address).sort(), ["0.0.0.0", "::"]);
  });

  it("are the same ones when any are asked for again, at each of several addresses", async () => {
    const asked = ["127.0.0.1", "10.1.0.1", "::1"].map((hostAddress) => ({ ...binding(80, 0), hostAddress }));
    await site.driver.ports.publish(network.id, next.id, asked);
    const given = site.records();
    await site.driver.ports.publish(network.id, next.id, asked);
    assert.deepEqual(site.records(), given);
  });

  it("are none if it has no address that they could lead to", async () => {
    await site.driver.createEndpoint({ network: network.id, id: id(9) });
    const sockets = (await hostState()).sockets;
    await site.driver.ports.publish(network.id, id(9), [binding(80, 8080)]);
    assert.deepEqual((await hostState()).sockets, sockets);
    await assert.rejects(
      site.driver.ports.publish(network.id, id(9), [{ ...binding(80, 8080), hostAddress: "127.0.0.1" }]),
      /^InvalidError: cannot publish 127.0.0.1 to container port 80: the container has no IPv4 address$/,
    );
  });
});
