import assert from "node:assert/strict";
import { EngineClient } from "../support/engine-client.ts";
import { Plugin } from "../support/plugin.ts";
import { createEndpoint, createNetwork, endpoint, id, join, publish } from "../support/requests.ts";

/** A gate that every step of some things waits at. */
class Gate {
  /** What waits now. */
  readonly waiting: string[] = [];
  #open: () => void = () => undefined;
  readonly #opened = new Promise<void>((resolve) => (this.#open = resolve));

  constructor(plugin: Plugin, match: RegExp) {
    plugin.world.pause = async (call) => {
      if (!match.test(call)) return;
      this.waiting.push(call);
      await this.#opened;
    };
  }

  open(): void {
    this.#open();
  }
}

describe("requests at the same time", () => {
  let plugin: Plugin;
  let clients: EngineClient[];
  const call = async (method: string, body: unknown) => {
    const client = await EngineClient.open(plugin.socket);
    clients.push(client);
    return await client.call(`NetworkDriver.${method}`, body);
  };
  const until = async (condition: () => boolean) => {
    for (let turns = 0; !condition(); turns += 1) {
      assert.ok(turns < 5000, "it did not come to that");
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  };

  beforeEach(async () => {
    plugin = await Plugin.start();
    clients = [];
  });
  afterEach(async () => {
    for (const client of clients) client.close();
    await plugin.stop();
  });

  it("overlap on different networks: a slow one holds up no other", async () => {
    const gate = new Gate(plugin, /000001/);
    const slow = call("CreateNetwork", createNetwork(1));
    await until(() => gate.waiting.length === 1);
    for (const number of [2, 3, 4])
      assert.deepEqual((await call("CreateNetwork", createNetwork(number))).body, {});
    assert.equal(plugin.world.things.has("bridge of 000001"), false);
    gate.open();
    assert.deepEqual((await slow).body, {});
    assert.equal(plugin.world.things.size, 8);
  });

  it("about one container are done one after the other, in the order in which they came", async () => {
    await call("CreateNetwork", createNetwork(1));
    const gate = new Gate(plugin, /apply link/);
    const order: string[] = [];
    const events = plugin.world.events.length;
    const all: Promise<unknown>[] = [];
    for (const [method, body] of [
      ["CreateEndpoint", createEndpoint(1, 1)],
      ["Join", join(1, 1)],
      ["ProgramExternalConnectivity", publish(1, 1, 8001)],
      ["Leave", endpoint(1, 1)],
      ["DeleteEndpoint", endpoint(1, 1)],
    ] as const) {
      all.push(
        call(method, body).then(({ status, body }) => {
          assert.deepEqual([status, (body as { Err?: string }).Err], [200, undefined]);
          order.push(method);
        }),
      );
      // The next one is sent when this one has certainly arrived: nothing but the gate holds it up.
      await until(() => gate.waiting.length === 1);
      await call("EndpointOperInfo", endpoint(1, 1));
    }
    assert.deepEqual(order, []);
    gate.open();
    await Promise.all(all);
    assert.deepEqual(order, [
      "CreateEndpoint",
      "Join",
      "ProgramExternalConnectivity",
      "Leave",
      "DeleteEndpoint",
    ]);
    assert.deepEqual(plugin.world.events.slice(events), [
      ...["+link of 0003e9", "+port 8001 to 80/tcp of 0003e9"],
      ...["-port 8001 to 80/tcp of 0003e9", "-link of 0003e9"],
    ]);
  });

  it("that make containers of one network begin in the order in which they came, and wait for none", async () => {
    await call("CreateNetwork", createNetwork(1));
    const gate = new Gate(plugin, /apply link/);
    const all: Promise<{ status: number }>[] = [];
    for (const number of [1, 2, 3, 4, 5]) {
      all.push(call("CreateEndpoint", createEndpoint(1, number)));
      await until(() => gate.waiting.length === number);
    }
    assert.deepEqual(
      gate.waiting,
      [1, 2, 3, 4, 5].map((number) => `apply link of ${id(1000 + number).slice(0, 6)}`),
    );
    gate.open();
    for (const { status } of await Promise.all(all)) assert.equal(status, 200);
  });

  it("on one network that concern one container each overlap, and what concerns the network waits for them", async () => {
    await call("CreateNetwork", createNetwork(1));
    for (const number of [1, 2]) {
      await call("CreateEndpoint", createEndpoint(1, number));
      await call("Join", join(1, number));
    }
    const gate = new Gate(plugin, /apply port 8001/);
    const slow = call("ProgramExternalConnectivity", publish(1, 1, 8001));
    await until(() => gate.waiting.length === 1);
    assert.deepEqual((await call("ProgramExternalConnectivity", publish(1, 2, 8002))).body, {});
    // The next one is sent when this one has certainly arrived.
    const arrived = () => call("EndpointOperInfo", endpoint(1, 1));
    const revoke = call("RevokeExternalConnectivity", endpoint(1, 1));
    await arrived();
    const remove = call("DeleteNetwork", { NetworkID: id(1) });
    await arrived();
    const late = call("ProgramExternalConnectivity", publish(1, 2, 8003));
    await arrived();
    const events = plugin.world.events.length;
    gate.open();
    assert.deepEqual((await slow).body, {});
    assert.deepEqual((await revoke).body, {});
    assert.deepEqual((await remove).body, {});
    assert.match((await late).text, /no record of network/);
    assert.deepEqual(plugin.world.events.slice(events, events + 2), [
      "+port 8001 to 80/tcp of 0003e9",
      "-port 8001 to 80/tcp of 0003e9",
    ]);
    assert.deepEqual(plugin.contents(), { records: {}, things: [] });
  });

  it("that delete a network wait for those that make its endpoints, and nothing is left", async () => {
    await call("CreateNetwork", createNetwork(1));
    const gate = new Gate(plugin, /apply link/);
    const create = call("CreateEndpoint", createEndpoint(1, 1));
    await until(() => gate.waiting.length === 1);
    const remove = call("DeleteNetwork", { NetworkID: id(1) });
    await call("EndpointOperInfo", endpoint(1, 1));
    gate.open();
    assert.equal((await create).status, 200);
    assert.deepEqual((await remove).body, {});
    assert.deepEqual(plugin.contents(), { records: {}, things: [] });
  });

  it("leave nothing behind after a hundred containers on ten networks came and went", async () => {
    const networks = Array.from({ length: 10 }, (_, number) => number + 1);
    await Promise.all(networks.map((network) => call("CreateNetwork", createNetwork(network))));
    const lives = networks.flatMap((network) =>
      networks.map(async (number) => {
        const ids = endpoint(network, number);
        await call("CreateEndpoint", createEndpoint(network, number));
        assert.match((await call("Join", join(network, number))).text, /"SrcName":"tsc/);
        for (const method of [
          "ProgramExternalConnectivity",
          "RevokeExternalConnectivity",
          "Leave",
          "DeleteEndpoint",
        ])
          assert.deepEqual((await call(method, ids)).body, {});
      }),
    );
    await Promise.all(lives);
    assert.equal(plugin.world.things.size, 20);
    await Promise.all(networks.map((network) => call("DeleteNetwork", { NetworkID: id(network) })));
    assert.deepEqual(plugin.contents(), { records: {}, things: [] });
  });

  it("are logged with one line each: method, ids at full length and milliseconds", async () => {
    await call("CreateNetwork", createNetwork(1));
    await call("CreateEndpoint", createEndpoint(1, 1));
    await call("Join", join(1, 9));
    const lines = plugin.lines.filter(({ method }) => method !== undefined);
    const [network, made, failed] = lines;
    assert.equal(lines.length, 3);
    assert.deepEqual(
      [network?.level, network?.["method"], network?.["network"]],
      ["info", "CreateNetwork", id(1)],
    );
    assert.deepEqual([made?.["network"], made?.["endpoint"]], [id(1), endpoint(1, 1).EndpointID]);
    assert.deepEqual([failed?.level, failed?.["method"]], ["warn", "Join"]);
    for (const line of lines) assert.equal(typeof line["ms"], "number");
  });
});

describe("a connection", () => {
  let plugin: Plugin;

  beforeEach(async () => {
    plugin = await Plugin.start();
  });
  afterEach(async () => {
    await plugin.stop();
  });

  it("stays open between requests, longer than Node's five seconds", async () => {
    const client = await EngineClient.open(plugin.socket);
    assert.equal((await client.call("Plugin.Activate")).status, 200);
    await new Promise((resolve) => setTimeout(resolve, 6500));
    assert.equal(client.isOpen, true);
    assert.equal((await client.call("Plugin.Activate")).status, 200);
    client.close();
  });

  it("is kept until the request in flight on it is answered when the server closes; idle ones are not", async () => {
    const [busy, idle] = [await EngineClient.open(plugin.socket), await EngineClient.open(plugin.socket)];
    await idle.call("Plugin.Activate");
    const gate = new Gate(plugin, /000001/);
    const reply = busy.call("NetworkDriver.CreateNetwork", createNetwork(1));
    while (gate.waiting.length === 0) await new Promise((resolve) => setImmediate(resolve));
    let closed = false;
    const closing = plugin.close().then(() => (closed = true));
    await assert.rejects(idle.reply());
    await assert.rejects(EngineClient.open(plugin.socket));
    assert.equal(closed, false);
    gate.open();
    assert.deepEqual((await reply).body, {});
    await closing;
    assert.ok(plugin.world.things.has("bridge of 000001"));
    busy.close();
    plugin = await Plugin.start();
  });

  it("that breaks before the reply changes nothing about what is done", async () => {
    const client = await EngineClient.open(plugin.socket);
    const gate = new Gate(plugin, /000001/);
    void client.call("NetworkDriver.CreateNetwork", createNetwork(1)).catch(() => undefined);
    while (gate.waiting.length === 0) await new Promise((resolve) => setImmediate(resolve));
    client.close();
    gate.open();
    const again = await EngineClient.open(plugin.socket);
    assert.deepEqual((await again.call("NetworkDriver.CreateNetwork", createNetwork(1))).body, {});
    assert.deepEqual(plugin.contents().things, ["bridge of 000001", "rules of 000001"]);
    again.close();
  });
});
