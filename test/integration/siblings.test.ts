import assert from "node:assert/strict";
import type { EndpointRequest, NetworkRequest, PortBinding } from "../../src/model.ts";
import { mustBeIsolated, ruleLines, wipe } from "../support/isolated.ts";
import { PORTS } from "../support/networks.ts";
import { id } from "../support/requests.ts";
import { Site } from "../support/site.ts";

const SANDBOX = "/run/docker/netns/2c1207509e31";

/** Network 10.NUMBER.0.0/16 with one container on it. */
function network(number: number): { network: NetworkRequest; endpoint: EndpointRequest } {
  return {
    network: {
      ...{ id: id(number), options: {}, internal: false },
      ipv4: [{ subnet: `10.${number}.0.0/16`, gateway: `10.${number}.0.1/16`, aux: {} }],
      ipv6: [{ subnet: `fd0${number}::/64`, gateway: `fd0${number}::1/64`, aux: {} }],
    },
    endpoint: {
      ...{ network: id(number), id: id(1000 + number) },
      ...{ ipv4: `10.${number}.0.2/16`, ipv6: `fd0${number}::2/64` },
    },
  };
}

describe("a container that publishes ports and is on several networks", () => {
  let site: Site;
  const all = [1, 2, 3].map(network);

  before(mustBeIsolated);
  beforeEach(async () => {
    site = new Site();
    await site.reconcile();
    for (const { network, endpoint } of all) {
      await site.driver.createNetwork(network);
      await site.driver.createEndpoint(endpoint);
    }
  });
  afterEach(async () => {
    await site.stop();
    await wipe();
  });

  const join = (number: number, sandbox = SANDBOX) =>
    site.driver.join(id(number), id(1000 + number), sandbox);
  const leave = (number: number) => site.driver.leave(id(number), id(1000 + number));
  const publish = (number: number, ports: readonly PortBinding[] = PORTS) =>
    site.driver.ports.publish(id(number), id(1000 + number), ports);
  const revoke = (number: number) => site.driver.ports.revoke(id(number), id(1000 + number));

  /** Who is hidden behind the host from which container, `from>to`; the same for both families and after a repair. */
  const hidden = async (): Promise<string[]> => {
    const [v4 = [], v6] = await Promise.all(
      ([4, 6] as const).map(async (family) => {
        const rules = await ruleLines(family);
        const pairs = rules.map((line) =>
          /TSNET-HAIRPIN -s (?:10\.|fd0)(\d).* -d (?:10\.|fd0)(\d)/.exec(line),
        );
        return pairs.flatMap((pair) => (pair ? `${pair[1] ?? ""}>${pair[2] ?? ""}` : [])).sort();
      }),
    );
    assert.deepEqual(v6, v4);
    assert.deepEqual(await site.reconcile(), {});
    return v4;
  };

  it("is no longer hidden from those of a network that could not be deleted to its end, but for it", async () => {
    await join(1);
    await publish(1);
    await join(2);
    assert.deepEqual(await hidden(), ["2>1"]);
    await site.driver.createEndpoint({ network: id(2), id: id(2000), ipv4: "10.2.0.9/16" });
    site.faults.plan([2, "before"]);
    await assert.rejects(site.driver.deleteNetwork(id(2)), /fault before revert/);
    assert.deepEqual(
      site.faults.calls.slice(0, 2).map((call) => call.includes("fd02::2") || call.includes("tsh")),
      [true, true],
    );
    assert.deepEqual(await hidden(), []);
  });

  it("is hidden from the clients that it shares a network with, in whatever order it came to them", async () => {
    await join(1);
    await publish(1);
    assert.deepEqual(await hidden(), []);
    await join(2);
    assert.deepEqual(await hidden(), ["2>1"]);
    await join(3);
    assert.deepEqual(await hidden(), ["2>1", "3>1"]);
    await leave(2);
    assert.deepEqual(await hidden(), ["3>1"]);
    await revoke(1);
    assert.deepEqual(await hidden(), []);
    await publish(1);
    assert.deepEqual(await hidden(), ["3>1"]);
    await leave(1);
    assert.deepEqual(await hidden(), []);
  });

  it("takes that along when its gateway moves", async () => {
    await join(2);
    await publish(2);
    await join(1);
    await revoke(2);
    await publish(1);
    assert.deepEqual(await hidden(), ["2>1"]);
    await revoke(1);
    await leave(1);
    await publish(2);
    assert.deepEqual(await hidden(), []);
  });

  it("keeps it while it publishes any port of that family", async () => {
    await join(1);
    await join(2);
    await publish(1);
    await publish(1, PORTS.slice(0, 1));
    assert.deepEqual(await hidden(), ["2>1"]);
    await publish(1, PORTS.slice(1));
    assert.deepEqual(await hidden(), ["2>1"]);
    await publish(1, []);
    assert.deepEqual(await hidden(), []);
  });

  it("leaves nothing, whichever is deleted without a word of leaving", async () => {
    for (const number of [1, 2, 3]) await join(number);
    await publish(1);
    await site.driver.deleteEndpoint(id(2), id(1002));
    assert.deepEqual(await hidden(), ["3>1"]);
    await site.driver.deleteNetwork(id(3));
    assert.deepEqual(await hidden(), []);
    await join(1);
    await site.driver.deleteEndpoint(id(1), id(1001));
    assert.deepEqual(await hidden(), []);
  });

  it("is another one than that in the next sandbox", async () => {
    await join(1);
    await publish(1);
    await join(2, `${SANDBOX}0`);
    assert.deepEqual(await hidden(), []);
  });

  it("has the rules again after a restart", async () => {
    await join(1);
    await publish(1);
    await join(2);
    await site.restart();
    assert.deepEqual(await hidden(), ["2>1"]);
  });

  for (const moment of ["before", "after"] as const)
    it(`has them or not, as before, when publishing fails ${moment} any of its steps`, async () => {
      await join(1);
      await join(2);
      site.faults.plan();
      await publish(1);
      const calls = site.faults.calls.length;
      await revoke(1);
      assert.ok(calls > 4);
      for (let number = 0; number < calls; number++) {
        site.faults.plan([number, moment]);
        await assert.rejects(publish(1));
        site.faults.plan();
        assert.deepEqual(await hidden(), [], site.faults.calls[number]);
      }
      await publish(1);
      assert.deepEqual(await hidden(), ["2>1"]);
    });
});
