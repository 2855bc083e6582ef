import assert from "node:assert/strict";
import fc from "fast-check";
import { ConflictError, TsnetError } from "../../src/errors.ts";
import type { EndpointRequest, NetworkRequest } from "../../src/model.ts";
import { hostState, ip, mustBeIsolated, plugWire, setSysctl, wipe } from "../support/isolated.ts";
import { NETWORKS, PORTS, endpointOf } from "../support/networks.ts";
import { Site } from "../support/site.ts";

const DUAL = NETWORKS["dual stack"] ?? assert.fail();

/** One network of each backend; their ids are the same, so one at a time. */
const KINDS: Readonly<Record<string, NetworkRequest>> = {
  bridge: DUAL,
  macvlan: { ...DUAL, options: { backend: "macvlan", parent: "wire0", host_access: "on" } },
};

/** The sandbox is never there: what is asked of it is what an engine before 28 asks before it makes one. */
const SANDBOX = "/run/docker/netns/none";

/** What an engine asks in a container's life, in its order. */
const LIFE = [
  "createNetwork",
  "createEndpoint",
  "join",
  "publish",
  "revoke",
  "leave",
  "deleteEndpoint",
  "deleteNetwork",
] as const;
type Method = (typeof LIFE)[number];

/** Those that make something out of what must be there. */
const NEEDY: readonly Method[] = ["createEndpoint", "join", "publish"];

for (const [kind, network] of Object.entries(KINDS))
  describe(`requests to a ${kind} network on the kernel`, () => {
    let site: Site;
    let empty: unknown;
    /** What is asked about a container, each of which publishes ports of its own. */
    const methodsOf = (
      endpoint: EndpointRequest,
      number: number,
    ): Readonly<Record<Method, () => Promise<unknown>>> => {
      const ports = PORTS.map((port) => {
        const hostPort = port.hostPort + number;
        return { ...port, hostPort, hostPortEnd: hostPort };
      });
      return {
        createNetwork: () => site.driver.createNetwork(network),
        createEndpoint: () => site.driver.createEndpoint(endpoint),
        join: () => site.driver.join(network.id, endpoint.id, SANDBOX),
        publish: () => site.driver.ports.publish(network.id, endpoint.id, kind === "bridge" ? ports : []),
        revoke: () => site.driver.ports.revoke(network.id, endpoint.id),
        leave: () => site.driver.leave(network.id, endpoint.id),
        deleteEndpoint: () => site.driver.deleteEndpoint(network.id, endpoint.id),
        // The engine is not told whether there was one.
        deleteNetwork: async () => {
          await site.driver.deleteNetwork(network.id);
        },
      };
    };
    const methods = methodsOf(endpointOf(network), 0);
    const all = async () => ({ host: await hostState(), records: site.records() });

    before(mustBeIsolated);
    beforeEach(async () => {
      await setSysctl("net/ipv4/ip_forward", "1");
      await setSysctl("net/ipv6/conf/all/forwarding", "1");
      await plugWire();
      // The bridge's subnet must be nobody else's.
      if (kind === "bridge") await ip("link delete wire0");
      site = new Site();
      empty = await all();
    });
    afterEach(async () => {
      await site.stop();
      await wipe();
    });

    it("sent twice, each, are answered the same and change nothing the second time", async () => {
      for (const method of LIFE) {
        const first = await methods[method]();
        const made = await all();
        assert.deepEqual(await methods[method](), first, method);
        assert.deepEqual(await all(), made, `${method} again`);
        assert.deepEqual(await site.reconcile(), {}, method);
      }
      assert.deepEqual(await all(), empty);
    });

    it("sent eight times at once, each, are answered the same and leave what one leaves", async () => {
      for (const method of LIFE) {
        const answers = await Promise.all(Array.from({ length: 8 }, () => methods[method]()));
        for (const answer of answers) assert.deepEqual(answer, answers[0], method);
        const made = await all();
        assert.deepEqual(await methods[method](), answers[0], method);
        assert.deepEqual(await all(), made, method);
        assert.deepEqual(await site.reconcile(), {}, method);
      }
      assert.deepEqual(await all(), empty);
    });

    it("for what is gone are refused if they need it and succeed if they end it, and make nothing", async () => {
      for (const method of LIFE) await methods[method]();
      for (const method of LIFE.filter((name) => name !== "createNetwork")) {
        if (NEEDY.includes(method))
          await assert.rejects(methods[method](), (error) => {
            assert.ok(error instanceof TsnetError);
            return /^unknown-(network|endpoint)$/.test(error.code);
          });
        else await methods[method]();
        assert.deepEqual(await all(), empty, method);
      }
    });

    it("in any order and at the same time leave no more than is on record, and nothing once it is deleted", async function () {
      this.timeout(240_000);
      // The last one has the first one's address.
      const others = [3, 4].map((number) => methodsOf(endpointOf(network, number), number));
      const usurper = methodsOf({ ...endpointOf(network), id: endpointOf(network, 5).id }, 5);
      const containers = [methods, ...others, usurper];
      const request = fc.tuple(fc.constantFrom(...containers.keys()), fc.constantFrom(...LIFE));
      await fc.assert(
        fc.asyncProperty(
          fc.array(fc.array(request, { minLength: 1, maxLength: 8 }), { minLength: 2, maxLength: 8 }),
          async (waves) => {
            await methods.createNetwork();
            for (const wave of waves) {
              const ends = await Promise.allSettled(
                wave.map(async ([container, method]) => containers[container]?.[method]()),
              );
              for (const end of ends)
                if (end.status === "rejected") {
                  assert.ok(end.reason instanceof TsnetError, String(end.reason));
                  assert.ok(!(end.reason instanceof ConflictError), end.reason.message);
                }
              // What is on the host is what the records say.
              assert.deepEqual(await site.reconcile(), {}, JSON.stringify(waves));
            }
            await methods.deleteNetwork();
            assert.deepEqual(await all(), empty);
          },
        ),
        { numRuns: 16, endOnFailure: true },
      );
    });
  });
