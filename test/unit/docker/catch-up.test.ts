import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { mock } from "node:test";
import { CatchUp } from "../../../src/docker/catch-up.ts";
import type { Engine } from "../../../src/docker/engine.ts";
import { Driver } from "../../../src/driver.ts";
import { State } from "../../../src/store/state.ts";
import type { Store } from "../../../src/store/store.ts";
import { FakeBackend } from "../../support/fake-backend.ts";
import { ALL_KNOWN } from "../../support/known.ts";
import { memoryLog } from "../../support/log.ts";
import { id } from "../../support/requests.ts";
import { openStore } from "../../support/store.ts";
import { World } from "../../support/world.ts";

type Asked = Pick<Engine, "inventory" | "endpoints">;

/** An engine that knows these networks, each with these endpoints. */
function engineWith(networks: Readonly<Record<string, readonly string[]>>, engine = "one"): Asked {
  return {
    inventory: () => Promise.resolve({ engine, networks: new Set(Object.keys(networks)) }),
    endpoints: (network) => Promise.resolve(new Set(networks[network])),
  };
}

describe("CatchUp", () => {
  let dir: string;
  let store: Store;
  let world: World;
  let driver: Driver;
  const { log, lines } = memoryLog();

  /** A daemon started on two networks with two endpoints each, all made that long ago. */
  const started = async (ageMs: number) => {
    const ipv4 = (number: number) => [{ subnet: `10.${number}.0.0/16`, aux: {} }];
    const first = new Driver(new State(store), { bridge: new FakeBackend(world) }, ALL_KNOWN, log);
    for (const number of [1, 2]) {
      await first.createNetwork({
        id: id(number),
        options: {},
        internal: false,
        ipv4: ipv4(number),
        ipv6: [],
      });
      for (const endpoint of [1, 2])
        await first.createEndpoint({
          network: id(number),
          id: id(number * 16 + endpoint),
          ipv4: `10.${number}.0.${endpoint}/16`,
        });
    }
    for (const { key, value } of store.list(""))
      store.put(key, { ...(value as object), createdAt: Date.now() - ageMs });
    const state = new State(store);
    driver = new Driver(state, { bridge: new FakeBackend(world) }, ALL_KNOWN, log);
    let engine: Asked;
    const asked: Asked = {
      inventory: () => engine.inventory(),
      endpoints: (network) => engine.endpoints(network),
    };
    const catchUp = new CatchUp(asked, driver, state, log);
    return (now: Asked, end = { aborted: false }) => {
      engine = now;
      return catchUp.run(end);
    };
  };
  const everything = { [id(1)]: [id(17), id(18)], [id(2)]: [id(33), id(34)] };

  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), "tsnet-test-"));
    store = openStore(dir);
    world = new World();
  });
  afterEach(async () => {
    await store.close();
    rmSync(dir, { recursive: true });
  });

  it("deletes nothing that the engine knows", async () => {
    const run = await started(3_600_000);
    const before = [...world.things];
    assert.equal(await run(engineWith(everything)), undefined);
    assert.deepEqual([...world.things], before);
  });

  it("goes on past a network that cannot be read, and asks to be called again soon", async () => {
    const run = await started(3_600_000);
    const engine = engineWith({ ...everything, [id(2)]: [id(33)] });
    const endpoints = (network: string) =>
      network === id(1) ? Promise.reject(new Error("no such network")) : engine.endpoints(network);
    assert.equal(await run(Object.assign(engineWith(everything), { endpoints })), 1000);
    assert.equal(await run(engineWith(everything)), undefined);
    assert.ok(![...world.things].some((thing) => thing.includes(id(34).slice(0, 6))));
  });

  it("deletes a network that the engine has forgotten, with its endpoints", async () => {
    const run = await started(3_600_000);
    await run(engineWith({ [id(2)]: [id(33), id(34)] }));
    assert.deepEqual(
      [...world.things].filter((thing) => thing.includes(id(1).slice(0, 6))),
      [],
    );
    assert.deepEqual(
      store.list("").map(({ key }) => key.split("/")[1]),
      Array(3).fill(id(2)),
    );
  });

  it("deletes an endpoint that the engine has forgotten, and no other", async () => {
    const run = await started(3_600_000);
    await run(engineWith({ ...everything, [id(1)]: [id(18)] }));
    assert.equal(world.things.has(`link of ${id(17).slice(0, 6)}`), false);
    assert.equal(world.things.has(`link of ${id(18).slice(0, 6)}`), true);
    assert.equal(store.list("").length, 5);
  });

  it("keeps what another engine was seen to know, for a day", async () => {
    const run = await started(3_600_000);
    const before = [...world.things];
    await run(engineWith(everything));
    const told = () => lines.filter(({ msg }) => msg.startsWith("this engine has another data directory"));
    mock.timers.enable({ apis: ["Date"], now: Date.now() });
    const begin = performance.now();
    const clock = mock.method(performance, "now", () => begin);
    try {
      const pass = (hours: number) => {
        clock.mock.mockImplementation(() => begin + hours * 3_600_000);
      };
      // As one does whose disk is not mounted, time and again.
      for (const hours of [0, 1, 23]) {
        pass(hours);
        await run(engineWith({}, "other"));
      }
      assert.equal(told().length, 1);
      assert.deepEqual(told()[0]?.["networks"], [id(1), id(2)]);
      pass(25);
      await run(engineWith(everything));
      await run(engineWith({}, "other"));
      pass(48);
      await run(engineWith({}, "other"));
      assert.deepEqual([...world.things], before);
      pass(50);
      await run(engineWith({}, "other"));
      assert.deepEqual(store.list(""), []);
    } finally {
      clock.mock.restore();
      mock.timers.reset();
    }
  });

  it("deletes what it has forgotten that no other engine was seen to know", async () => {
    const run = await started(3_600_000);
    await run(engineWith({ [id(1)]: [id(17), id(18)] }, "other"));
    assert.deepEqual(
      store.list("network/").map(({ key }) => key),
      [`network/${id(1)}`],
    );
    // It has been taken for the first one's meanwhile.
    await run(engineWith({}, "one"));
    assert.equal(store.list("network/").length, 1);
    await run(engineWith({}, "other"));
    assert.deepEqual(store.list(""), []);
  });

  it("tells once of a network that cannot be read", async () => {
    const run = await started(3_600_000);
    const endpoints = () => Promise.reject(new Error("no answer"));
    for (let times = 0; times < 3; times += 1) await run({ ...engineWith(everything), endpoints });
    assert.equal(lines.filter(({ reason }) => reason === "no answer").length, 2, "one for each network");
  });

  it("lets be what is so young that the engine may still be making it", async () => {
    const run = await started(10_000);
    const before = [...world.things];
    for (const known of [{ [id(2)]: [id(33), id(34)] }, { ...everything, [id(2)]: [] }])
      assert.equal(await run(engineWith(known)), 20_000, "milliseconds until it looks again");
    assert.deepEqual([...world.things], before);
  });

  it("lets be what is still being made, however long that takes", async () => {
    const run = await started(3_600_000);
    const before = [...world.things];
    let resolve: () => void = () => undefined;
    const promise = new Promise<void>((done) => (resolve = done));
    const working = [1, 2].map((number) => driver.exclusively(id(number), () => promise));
    assert.equal(await run(engineWith({ [id(2)]: [] })), 20_000, "milliseconds until it looks again");
    assert.deepEqual([...world.things], before);
    resolve();
    await Promise.all(working);
  });

  it("deletes what was made while the clock was ahead", async () => {
    const run = await started(-3_600_000);
    assert.equal(await run(engineWith({})), undefined);
    assert.deepEqual(store.list(""), []);
  });

  it("leaves the rest when nobody waits for it any more", async () => {
    const run = await started(3_600_000);
    const before = [...world.things];
    await run(engineWith({}), { aborted: true });
    assert.deepEqual([...world.things], before);
  });

  it("lets be what is made after it has asked, however long it is busy with the others", async () => {
    const run = await started(3_600_000);
    mock.timers.enable({ apis: ["Date"], now: Date.now() });
    try {
      const engine = engineWith(everything);
      const inventory = async () => {
        const answer = await engine.inventory();
        await driver.createNetwork({ id: id(3), options: {}, internal: false, ipv4: [], ipv6: [] });
        return answer;
      };
      const endpoints = (network: string) => {
        mock.timers.tick(15_000);
        return engine.endpoints(network);
      };
      await run(Object.assign(engineWith(everything), { inventory, endpoints }));
    } finally {
      mock.timers.reset();
    }
    assert.equal(store.list(`network/${id(3)}`).length, 1);
  });

  it("deletes nothing when the engine does not answer", async () => {
    const run = await started(3_600_000);
    const before = [...world.things];
    const silent = { ...engineWith({}), inventory: () => Promise.reject(new Error("ECONNREFUSED")) };
    await assert.rejects(run(silent), /ECONNREFUSED/);
    assert.deepEqual([...world.things], before);
  });
});
