import assert from "node:assert/strict";
import { hostState, ipLinks, mustBeIsolated, wipe } from "../support/isolated.ts";
import { NETWORKS, bridgeOf } from "../support/networks.ts";
import { id } from "../support/requests.ts";
import { Site } from "../support/site.ts";

/** BR_MAX_PORTS (net/bridge/br_private.h), less the number that none has. */
const PORTS = 1023;
/** 90 % of them. */
const NEARLY = 921;
const FEW = 10;
/** Containers that come and go to see what one costs. */
const GUESTS = 40;
/** Times they do so on the full bridge at most, until they cost as little as they may: whatever else the machine has to do only adds. */
const TURNS = 5;
/** What one may cost on a full bridge, in multiples of what it does on an empty one; 1.0 on a machine with nothing else to do. */
const MOST_GROWTH = 2;
/** Milliseconds for a look at everything; 700 on such a machine. */
const MOST_RECONCILE_MS = 4000;

const network = NETWORKS["IPv4 with two subnets"] ?? assert.fail();

/** A network's containers: numbers from 2 on. */
function container(number: number) {
  return {
    network: network.id,
    id: id(0x10_000 + number),
    ipv4: `10.1.${String(number >> 8)}.${String(number & 255)}/16`,
  };
}

describe("a bridge with every port it can have", () => {
  let site: Site;
  const cost = { few: 0, many: 0 };

  before(async function () {
    this.timeout(180_000);
    mustBeIsolated();
    site = new Site();
    await site.reconcile();
    await site.driver.createNetwork(network);
    for (let number = 2; number < 2 + FEW; number += 1) await start(number);
    await comeAndGo();
    cost.few = await comeAndGo();
    for (let number = 2 + FEW; number < 2 + PORTS - GUESTS; number += 1) await start(number);
    cost.many = await comeAndGo();
    for (let turn = 1; turn < TURNS && cost.many > cost.few * MOST_GROWTH; turn += 1)
      cost.many = Math.min(cost.many, await comeAndGo());
    for (let number = 2 + PORTS - GUESTS; number < 2 + PORTS; number += 1) await start(number);
  });
  after(async () => {
    await site.stop();
    await wipe();
  });

  it("warned once, at nine tenths", () => {
    const warnings = site.lines.filter(({ msg }) => msg.startsWith("the network is nearly full"));
    assert.deepEqual(
      warnings.map(({ level, endpoints, capacity }) => ({ level, endpoints, capacity })),
      [{ level: "warn", endpoints: NEARLY, capacity: PORTS }],
    );
  });

  it("refuses one more with a message that says so and what to do, and is as it was", async () => {
    const before = { host: await hostState(), records: site.records() };
    const ports = (await ipLinks()).filter(({ master }) => master === bridgeOf(network));
    assert.equal(ports.length, PORTS);
    await assert.rejects(site.driver.createEndpoint(container(2 + PORTS)), {
      message:
        /the bridge has the 1,023 ports a Linux bridge can have; put further containers on another network$/,
    });
    assert.deepEqual({ host: await hostState(), records: site.records() }, before);
  });

  it("takes another in the place of one that goes", async () => {
    await site.driver.deleteEndpoint(network.id, container(2).id);
    await start(2 + PORTS);
    await site.driver.deleteEndpoint(network.id, container(2 + PORTS).id);
    await start(2);
  });

  it(`takes a container in at no more than ${String(MOST_GROWTH)} times what an empty one takes`, () => {
    const growth = cost.many / cost.few;
    console.log(`        ${cost.few.toFixed(1)} and ${cost.many.toFixed(1)} ms: ${growth.toFixed(2)} times`);
    assert.ok(growth <= MOST_GROWTH, `${growth.toFixed(2)} times`);
  });

  it("is looked at in seconds, and nothing is found", async function () {
    this.timeout(60_000);
    await site.restart();
    const start = performance.now();
    const drift = await site.reconcile();
    const took = performance.now() - start;
    // Ports live in the process: it is new.
    assert.deepEqual({ ...drift, ports: 0 }, { ports: 0 });
    console.log(`        ${took.toFixed(0)} ms`);
    assert.ok(took < MOST_RECONCILE_MS, `it took ${took.toFixed(0)} ms`);
  });

  it("goes as a whole", async function () {
    this.timeout(60_000);
    await site.driver.deleteNetwork(network.id);
    assert.deepEqual(site.records(), {});
    assert.deepEqual(Object.keys((await hostState()).links), ["lo"]);
  });

  async function start(number: number): Promise<void> {
    const { id: endpoint } = container(number);
    await site.driver.createEndpoint(container(number));
    await site.driver.join(network.id, endpoint, `/run/docker/netns/${String(number)}`);
    const port = 20_000 + number;
    await site.driver.ports.publish(network.id, endpoint, [
      { protocol: "tcp", containerPort: 80, hostAddress: "127.0.0.1", hostPort: port, hostPortEnd: port },
    ]);
  }

  /** @returns the median of what one start takes, in milliseconds */
  async function comeAndGo(): Promise<number> {
    const times: number[] = [];
    for (let guest = 0; guest < GUESTS; guest += 1) {
      const before = performance.now();
      await start(5000 + guest);
      times.push(performance.now() - before);
    }
    for (let guest = 0; guest < GUESTS; guest += 1)
      await site.driver.deleteEndpoint(network.id, container(5000 + guest).id);
    return times.sort((a, b) => a - b)[GUESTS >> 1] ?? 0;
  }
});
