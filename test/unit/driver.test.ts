import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { mock } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Driver } from "../../src/driver.ts";
import { ConflictError, TakenError } from "../../src/errors.ts";
import type { Endpoint, Network, NetworkRequest, PortBinding } from "../../src/model.ts";
import { State } from "../../src/store/state.ts";
import type { Store } from "../../src/store/store.ts";
import { FakeBackend } from "../support/fake-backend.ts";
import { ALL_KNOWN } from "../support/known.ts";
import { memoryLog } from "../support/log.ts";
import { id } from "../support/requests.ts";
import { openStore } from "../support/store.ts";
import { type Moment, World } from "../support/world.ts";

const NETWORK: NetworkRequest = {
  id: id(1),
  options: {},
  internal: false,
  ipv4: [{ subnet: "10.1.0.0/16", gateway: "10.1.0.1/16", aux: {} }],
  ipv6: [],
};
const ENDPOINT = { network: id(1), id: id(2), ipv4: "10.1.0.2/16" };
const PORTS: PortBinding[] = [8080, 8081].map((hostPort) => ({
  ...{ protocol: "tcp", containerPort: hostPort - 8000, hostAddress: "", hostPort, hostPortEnd: hostPort },
}));

describe("Driver", () => {
  let dir: string;
  let store: Store;
  let world: World;
  let driver: Driver;

  /** What is on the "host" and in the store, and what the driver believes. */
  const contents = () => ({
    things: [...world.things].sort(),
    records: store.list("").map(({ key, value }) => [key, { ...(value as object), createdAt: 0 }]),
  });
  /** As after a restart of the daemon. */
  const restart = () => {
    driver = new Driver(new State(store), { bridge: new FakeBackend(world) }, ALL_KNOWN, memoryLog().log);
  };
  const operations: Record<string, () => Promise<unknown>> = {
    createNetwork: () => driver.createNetwork(NETWORK),
    createEndpoint: () => driver.createEndpoint(ENDPOINT),
    join: () => driver.join(id(1), id(2), "/run/netns/x"),
    publish: () => driver.ports.publish(id(1), id(2), PORTS),
    revoke: () => driver.ports.revoke(id(1), id(2)),
    leave: () => driver.leave(id(1), id(2)),
    deleteEndpoint: () => driver.deleteEndpoint(id(1), id(2)),
    deleteNetwork: async () => {
      await driver.deleteNetwork(id(1));
    },
  };
  const names = Object.keys(operations);
  /** Everything before that operation, in the engine's order. */
  const until = async (name: string) => {
    for (const before of names.slice(0, names.indexOf(name))) await operations[before]?.();
  };

  /** Holds a call to the world up. @returns lets it go on */
  const hold = (held: string) => {
    let open: () => void = () => undefined;
    const gate = new Promise<void>((resolve) => (open = resolve));
    world.pause = (call) => (call === held ? gate : Promise.resolve());
    return open;
  };
  /** Longer than anything takes that nobody holds up. */
  const turn = () => sleep(20, "nothing yet");

  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), "tsnet-test-"));
    store = openStore(dir);
    world = new World();
    restart();
  });
  afterEach(async () => {
    await store.close();
    rmSync(dir, { recursive: true });
  });

  it("leaves nothing after a network's life", async () => {
    for (const name of names) await operations[name]?.();
    assert.deepEqual(contents(), { things: [], records: [] });
    assert.ok(world.events.length >= 10);
  });

  for (const name of names) {
    it(`${name} changes nothing the second time, nor after a restart`, async () => {
      await until(name);
      const first = await operations[name]?.();
      const [before, events] = [contents(), world.events.length];
      assert.deepEqual(await operations[name]?.(), first);
      restart();
      assert.deepEqual(await operations[name]?.(), first);
      assert.deepEqual(contents(), before);
      assert.equal(world.events.length, events);
    });

    it(`${name} that fails at any step can be done again, and then there is no trace of the failure`, async () => {
      await until(name);
      // Which steps there are is seen by doing it once.
      const [start, done] = [world.events.length, contents()];
      await operations[name]?.();
      const [after, steps] = [contents(), world.events.slice(start)];
      for (const event of steps) {
        const call = event.replace(/^\+/, "apply ").replace(/^-/, "revert ");
        for (const moment of ["before", "after"] satisfies Moment[]) {
          world.things.clear();
          for (const { key } of store.list("")) store.delete(key);
          restart();
          await until(name);
          assert.deepEqual(contents(), done);
          world.faults.set(call, moment);
          await assert.rejects(operations[name]?.() ?? Promise.resolve(), `${call} ${moment}`);
          world.faults.clear();
          // What makes something leaves nothing of it. What removes something leaves a record of what is left.
          if (call.startsWith("apply")) assert.deepEqual(contents(), done, `${call} ${moment}`);
          else
            assert.ok(contents().records.length > 0 || contents().things.length === 0, `${call} ${moment}`);
          restart();
          await operations[name]?.();
          assert.deepEqual(contents(), after, `${call} ${moment}, again`);
        }
      }
    });
  }

  for (const name of ["createNetwork", "createEndpoint"])
    it(`${name} that fails the second time leaves what is in use alone`, async () => {
      await until("leave");
      const before = contents();
      const last = [...world.things]
        .filter((thing) => (name === "createNetwork") === !thing.includes("000002"))
        .at(-1);
      world.faults.set(`apply ${last ?? assert.fail()}`, "before");
      await assert.rejects(operations[name]?.() ?? Promise.resolve(), /fault before/);
      assert.deepEqual(contents(), before);
    });

  it("makes a network again of which nothing is left, before its first endpoint after a start", async () => {
    await until("createEndpoint");
    const made = contents();
    world.things.clear();
    restart();
    await driver.createEndpoint(ENDPOINT);
    await driver.deleteEndpoint(id(1), id(2));
    assert.deepEqual(contents(), made);
    const events = world.events.length;
    await driver.createEndpoint(ENDPOINT);
    assert.ok(world.events.slice(events).every((event) => event.includes("000002")));
  });

  it("deletes a network with the endpoints it still has", async () => {
    await until("leave");
    await driver.deleteNetwork(id(1));
    assert.deepEqual(contents(), { things: [], records: [] });
  });

  it("publishes other ports in place of those before, and leaves the ones that stay alone", async () => {
    await until("revoke");
    const events = world.events.length;
    const [kept, gone] = PORTS;
    assert.ok(kept && gone);
    await driver.ports.publish(id(1), id(2), [kept, { ...gone, hostPort: 9090, hostPortEnd: 9090 }]);
    assert.deepEqual(world.events.slice(events), [
      "-port 8081 to 81/tcp of 000002",
      "+port 9090 to 81/tcp of 000002",
    ]);
  });

  it("keeps what was published when other ports cannot be", async () => {
    await until("revoke");
    const before = contents();
    world.faults.set("apply port 9090 to 81/tcp of 000002", "after");
    const other = PORTS.map((port, index) =>
      index === 1 ? { ...port, hostPort: 9090, hostPortEnd: 9090 } : port,
    );
    await assert.rejects(driver.ports.publish(id(1), id(2), other));
    assert.deepEqual(contents(), before);
  });

  it("publishes nothing of an internal network", async () => {
    await driver.createNetwork({ ...NETWORK, internal: true });
    await driver.createEndpoint(ENDPOINT);
    const before = contents();
    await driver.ports.publish(id(1), id(2), PORTS);
    await driver.ports.publish(id(1), id(2), []);
    assert.deepEqual(contents(), before);
  });

  it("gives a MAC that goes with the address, or takes the one given and returns none", async () => {
    await driver.createNetwork(NETWORK);
    assert.equal(await driver.createEndpoint(ENDPOINT), "02:42:0a:01:00:02");
    assert.equal(
      await driver.createEndpoint({ ...ENDPOINT, id: id(3), mac: "02:11:22:33:44:55" }),
      undefined,
    );
    assert.match((await driver.createEndpoint({ network: id(1), id: id(4) })) ?? "", /^02:42:/);
  });

  it("refuses a MAC that no link can have", async () => {
    await driver.createNetwork(NETWORK);
    for (const mac of ["03:42:0a:01:00:02", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"])
      await assert.rejects(
        driver.createEndpoint({ ...ENDPOINT, mac }),
        new RegExp(`^InvalidError: .*${mac}`),
      );
  });

  it("deletes an endpoint whose address the engine gives to another: it has forgotten that one", async () => {
    await driver.createNetwork(NETWORK);
    await driver.createEndpoint({ ...ENDPOINT, id: id(4), ipv4: "10.1.0.9/16" });
    const before = contents();
    await driver.createEndpoint(ENDPOINT);
    await driver.join(id(1), id(2), "/run/docker/netns/1");
    await driver.ports.publish(id(1), id(2), PORTS);
    await driver.createEndpoint({ ...ENDPOINT, id: id(3) });
    assert.deepEqual(
      store.list("endpoint/").map(({ key }) => key),
      [3, 4].map((number) => `endpoint/${id(1)}/${id(number)}`),
    );
    await driver.deleteEndpoint(id(1), id(3));
    assert.deepEqual(contents(), before);
  });

  it("makes and removes endpoints of a network side by side, and the network when none is under way", async () => {
    await driver.createNetwork(NETWORK);
    const other = { ...ENDPOINT, id: id(3), ipv4: "10.1.0.3/16" };
    const open = hold(`apply link of ${id(2).slice(0, 6)}`);
    const slow = driver.createEndpoint(ENDPOINT);
    await driver.createEndpoint(other);
    await driver.deleteEndpoint(id(1), other.id);
    const [again, end] = [driver.createEndpoint(ENDPOINT), driver.deleteNetwork(id(1))];
    assert.equal(await Promise.race([slow, again, end, turn()]), "nothing yet");
    open();
    await Promise.all([slow, again, end]);
    assert.deepEqual(contents(), { things: [], records: [] });
  });

  it("gives an address of one endpoint to another once nothing else of the network is under way", async () => {
    await driver.createNetwork(NETWORK);
    await driver.createEndpoint(ENDPOINT);
    const open = hold(`apply link of ${id(4).slice(0, 6)}`);
    const slow = driver.createEndpoint({ ...ENDPOINT, id: id(4), ipv4: "10.1.0.4/16" });
    const taker = driver.createEndpoint({ ...ENDPOINT, id: id(3) });
    assert.equal(await Promise.race([slow, taker, turn()]), "nothing yet");
    open();
    await Promise.all([slow, taker]);
    assert.deepEqual(
      store.list("endpoint/").map(({ key }) => key),
      [3, 4].map((number) => `endpoint/${id(1)}/${id(number)}`),
    );
  });

  for (const before of [0, 1, 2, 3])
    it(`gives an address to one of two that get it at once, ${before} requests after another one`, async () => {
      await driver.createNetwork(NETWORK);
      const both = [2, 3].map((number) => ({ ...ENDPOINT, id: id(number) }));
      const others = Array.from({ length: before }, () => driver.ports.revoke(id(1), id(2)));
      await Promise.all([...others, ...both.map((endpoint) => driver.createEndpoint(endpoint))]);
      const keys = store.list("endpoint/").map(({ key }) => key);
      assert.equal(keys.length, 1);
      const links = [...world.things].filter((thing) => thing.startsWith("link"));
      assert.deepEqual(links, [`link of ${keys[0]?.slice(-64).slice(0, 6)}`]);
    });

  it("makes the first endpoint after a start before what is asked of it later", async () => {
    await driver.createNetwork(NETWORK);
    const before = contents();
    restart();
    await Promise.all([driver.createEndpoint(ENDPOINT), driver.deleteEndpoint(id(1), id(2))]);
    assert.deepEqual(contents(), before);
  });

  describe("a network that needs what another one has", () => {
    /** What the engine knows, or that it does not answer. */
    let known: readonly string[] | undefined;

    /** A daemon that was started on one network, made that long ago, of which there can be only one. */
    const started = async (ageMs: number) => {
      await driver.createNetwork(NETWORK);
      await driver.createEndpoint(ENDPOINT);
      for (const { key, value } of store.list(""))
        store.put(key, { ...(value as object), createdAt: Date.now() - ageMs });
      const survey = (_: unknown, [other]: readonly Network[]) =>
        other ? Promise.reject(new TakenError(other.id, "it is taken")) : Promise.resolve({ mtu: 1500 });
      const knows = (network: string) =>
        known ? Promise.resolve(known.includes(network)) : Promise.reject(new Error("ECONNREFUSED"));
      const backends = { bridge: Object.assign(new FakeBackend(world), { survey }) };
      const engine = { ...ALL_KNOWN, knowsNetwork: knows };
      driver = new Driver(new State(store), backends, engine, memoryLog().log);
      return () => driver.createNetwork({ ...NETWORK, id: id(5) });
    };

    it("has it, when the engine has forgotten that one", async () => {
      known = [];
      await (
        await started(3000)
      )();
      assert.deepEqual(
        store.list("").map(({ key }) => key),
        [`network/${id(5)}`],
      );
    });

    it("has it, when that one is deleted while it is asked for", async () => {
      await driver.createNetwork(NETWORK);
      const survey = async () => {
        if (store.list(`network/${id(1)}`).length === 0) return { mtu: 1500 };
        await driver.deleteNetwork(id(1));
        throw new TakenError(id(1), "it is taken");
      };
      const backends = { bridge: Object.assign(new FakeBackend(world), { survey }) };
      driver = new Driver(new State(store), backends, ALL_KNOWN, memoryLog().log);
      await driver.createNetwork({ ...NETWORK, id: id(5) });
      assert.deepEqual(
        store.list("").map(({ key }) => key),
        [`network/${id(5)}`],
      );
    });

    it("is refused when that one is still being made, however long that takes, and just after", async () => {
      known = [];
      const create = await started(3000);
      await driver.deleteNetwork(id(1));
      mock.timers.enable({ apis: ["Date"], now: Date.now() });
      try {
        let goOn: () => void = () => undefined;
        world.pause = () => new Promise((resolve) => (goOn = resolve));
        const first = driver.createNetwork(NETWORK);
        while (store.list("").length === 0) await new Promise(setImmediate);
        mock.timers.tick(3000);
        await assert.rejects(create(), /^TakenError: it is taken$/);
        world.pause = () => Promise.resolve();
        goOn();
        await first;
        await assert.rejects(create(), /^TakenError: it is taken$/);
      } finally {
        mock.timers.reset();
      }
      assert.deepEqual(
        store.list("").map(({ key }) => key),
        [`network/${id(1)}`],
      );
    });

    for (const [when, ageMs, knows] of [
      ["the engine knows that one", 3000, [id(1)]],
      ["that one was made a moment ago", 1000, []],
      ["no engine answers", 3000, undefined],
    ] as const)
      it(`is refused when ${when}`, async () => {
        known = knows;
        const create = await started(ageMs);
        const before = contents();
        await assert.rejects(create(), /^TakenError: it is taken$/);
        assert.deepEqual(contents(), before);
      });
  });

  describe("a port that another endpoint has", () => {
    const bindings = PORTS.slice(0, 1);

    /** A daemon that was started on two endpoints, made that long ago, of which the first has published the port. */
    const started = async (ageMs: number, knowsEndpoint: () => Promise<boolean>) => {
      await driver.createNetwork(NETWORK);
      await driver.createEndpoint(ENDPOINT);
      await driver.ports.publish(id(1), id(2), bindings);
      await driver.createEndpoint({ ...ENDPOINT, id: id(3), ipv4: "10.1.0.3/16" });
      for (const { key, value } of store.list(""))
        store.put(key, { ...(value as object), createdAt: Date.now() - ageMs });
      const state = new State(store);
      const fake = new FakeBackend(world);
      const choosePorts = (network: Network, endpoint: Endpoint, asked: readonly PortBinding[]) => {
        if (state.endpoint(id(1), id(2))?.ports) throw new ConflictError("it is taken");
        return fake.choosePorts(network, endpoint, asked);
      };
      const backends = { bridge: Object.assign(new FakeBackend(world), { choosePorts }) };
      driver = new Driver(state, backends, { ...ALL_KNOWN, knowsEndpoint }, memoryLog().log);
      return state;
    };

    it("is published, when the engine has forgotten that one", async () => {
      const state = await started(3000, () => Promise.resolve(false));
      await driver.ports.publish(id(1), id(3), bindings);
      assert.equal(state.endpoint(id(1), id(2))?.ports, undefined);
      assert.equal(state.endpoint(id(1), id(3))?.ports?.length, 1);
    });

    for (const [when, ageMs, knows] of [
      ["the engine knows that one", 3000, () => Promise.resolve(true)],
      ["that one was made a moment ago", 1000, () => Promise.resolve(false)],
      ["no engine answers", 3000, () => Promise.reject(new Error("ECONNREFUSED"))],
    ] as const)
      it(`is refused when ${when}`, async () => {
        await started(ageMs, knows);
        const before = contents();
        await assert.rejects(driver.ports.publish(id(1), id(3), bindings), /it is taken/);
        assert.deepEqual(contents(), before);
      });
  });
});
