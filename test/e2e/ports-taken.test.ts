import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { BOX } from "../lab/image.ts";
import { Answerers, type Question, ask } from "./answers.ts";
import { onEachEngine } from "./each-engine.ts";
import { type Listener, listen, tryToTake } from "./listener.ts";
import { published, publishedBy } from "./published.ts";
import { subnets } from "./site.ts";
import { until } from "./until.ts";

/** When tsnet is started after the engine, which looks for it for 15 s. */
const LATE_MS = 2000;
const PORT = 8080;
const BOTH = ["-p", "8080:80", "-p", "8080:80/udp"];

onEachEngine("taken ports", (site) => {
  const answerers = new Answerers();
  const listeners: Listener[] = [];

  before(async () => {
    for (const name of ["blue", "green"]) {
      const { v4, v6 } = subnets();
      await site.network(name, "--ipv6", "--subnet", v4, "--subnet", v6);
    }
  });

  afterEach(async () => {
    await answerers.stop();
    for (const { stop } of listeners.splice(0)) await stop();
    await site.removeContainers();
  });

  it("cannot be published, and the engine's error names address, port and process", async () => {
    const cases = [
      ["TCP4-LISTEN:7001,bind=127.0.0.1", "7001:80", "0.0.0.0:7001/tcp"],
      ["TCP4-LISTEN:7002", "127.0.0.1:7002:80", "127.0.0.1:7002/tcp"],
      ["TCP6-LISTEN:7003,ipv6only=1", "7003:80", "[::]:7003/tcp"],
      ["TCP6-LISTEN:7004,ipv6only=0", "0.0.0.0:7004:80", "0.0.0.0:7004/tcp"],
      ["UDP4-RECV:7005", "7005:80/udp", "0.0.0.0:7005/udp"],
      ["UDP6-RECV:7006,ipv6only=1", "[::1]:7006:80/udp", "[::1]:7006/udp"],
    ] as const;
    for (const [address, form, named] of cases) {
      const { pid } = await taken(address);
      // The first port can be had, and must be free again afterwards.
      const refusal = await site.refused("run", "--network", "blue", "-p", "7000:80", "-p", form, BOX);
      assert.ok(
        refusal.includes(`cannot publish ${named}: the port is taken by process ${pid} (socat)`),
        refusal,
      );
    }
    assert.deepEqual(await published(site), []);
    assert.deepEqual(await bound(), []);
  });

  it("can be published for the other protocol, and for another address", async () => {
    await taken(`UDP4-RECV:${String(PORT)}`);
    await taken(`TCP4-LISTEN:${String(PORT)},bind=127.0.0.1`);
    await site.run("web", "blue", "-p", `${site.address.v4}:8080:80`, "-p", "[::]:8080:80/udp");
    await answerers.start(site.host, "web", [80], "web");
    const { v4, v6 } = site.address;
    const answers = await ask(site.neighbour, [
      { address: v4, port: PORT },
      { address: v6, port: PORT, protocol: "udp" },
    ]);
    assert.deepEqual(
      answers,
      Object.values(site.neighbourAddress).map((near) => `web ${near}`),
    );
  });

  it("cannot be published by a second container, whatever its network", async () => {
    await site.run("one", "blue", "-p", "127.0.0.1:8080:80", "-p", "8081:80/udp");
    await site.run("two", "green", "-p", "127.0.0.2:8080:80", "-p", "8081:80/tcp");
    for (const [form, named] of [
      ["127.0.0.1:8080:80", "127.0.0.1:8080/tcp"],
      ["8080:80", "0.0.0.0:8080/tcp"],
      ["127.0.0.1:8081:80/udp", "127.0.0.1:8081/udp"],
    ] as const) {
      const refusal = await site.refused("run", "--network", "green", "-p", form, BOX);
      assert.ok(refusal.includes(`cannot publish ${named}: the port is taken by endpoint`), refusal);
    }
  });

  it("cannot be taken by any process, and can be afterwards", async () => {
    // Nobody has been connected to it: what a connection leaves keeps a port for a minute (TIME_WAIT).
    const port = 8099;
    await site.run("web", "blue", "-p", `${String(port)}:80`, "-p", `${String(port)}:80/udp`);
    assert.deepEqual((await tryToTake(site, port)).worked, []);
    await site.docker("rm", "-f", "web");
    assert.deepEqual((await tryToTake(site, port)).refused, []);
  });

  it("are free while the container is stopped or off the network, and taken when it is back", async () => {
    await site.run("web", "blue", ...BOTH);
    const cases = {
      stopped: [
        ["stop", "-t", "0", "web"],
        ["start", "web"],
      ],
      disconnected: [
        ["network", "disconnect", "blue", "web"],
        ["network", "connect", "blue", "web"],
      ],
    } as const;
    for (const [how, [release, retake]] of Object.entries(cases)) {
      assert.equal((await bound()).length, 4, how);
      await site.docker(...release);
      assert.deepEqual(await bound(), [], how);
      assert.deepEqual(await published(site), [], how);
      const listener = await taken(`TCP4-LISTEN:${String(PORT)}`);
      await listener.stop();
      await site.docker(...retake);
      await answerers.start(site.host, "web", [80], "web");
      await isReached("web");
      await answerers.stop();
    }
  });

  it("are lent to nobody for long when tsnet is killed: it works on, and takes them again", async () => {
    await site.run("web", "blue", ...BOTH);
    await answerers.start(site.host, "web", [80], "web");
    await site.host.killTsnet();
    try {
      assert.deepEqual(await bound(), []);
      await isReached("web");
    } finally {
      await site.host.startTsnet();
    }
    await until("the ports to be taken again", async () => (await bound()).length === 4);
    await isReached("web");
    assert.deepEqual((await tryToTake(site, PORT)).worked, []);
  });

  it("stay the container's when a process took one meanwhile", async () => {
    await site.run("web", "blue", ...BOTH);
    await answerers.start(site.host, "web", [80], "web");
    await site.host.killTsnet();
    let thief: Listener | undefined;
    try {
      thief = await taken(`TCP4-LISTEN:${String(PORT)}`);
    } finally {
      await site.host.startTsnet();
    }
    // All others are taken, and the container is still reached by all.
    await until("the other ports to be taken", async () => (await bound()).length === 3);
    await isReached("web");
    await thief.stop();
    const refusal = await site.refused("run", "--network", "green", "-p", "8080:80", BOX);
    assert.match(refusal, /cannot publish 0\.0\.0\.0:8080\/tcp/);
    await isReached("web");
  });

  it("move with the container's gateway", async () => {
    const network = async () => [...new Set((await published(site)).map((port) => port.network))];
    await site.run("web", "green", ...BOTH);
    await answerers.start(site.host, "web", [80], "web");
    // Engines choose the network that comes first in the alphabet.
    await site.docker("network", "connect", "blue", "web");
    assert.deepEqual(await network(), ["blue"]);
    await isReached("web");
    await site.docker("network", "disconnect", "blue", "web");
    assert.deepEqual(await network(), ["green"]);
    await isReached("web");
    assert.equal((await publishedBy(site, "web")).length, 4);
    await site.docker("network", "disconnect", "green", "web");
    assert.deepEqual(await bound(), []);
  });

  for (const [who, killAndStart] of [
    ["the engine is killed", killEngine],
    ["engine and tsnet are killed and tsnet is started last", killBoth],
  ] as const)
    it(`are reached again, and taken, when ${who} and the container has restarted`, async () => {
      await site.run("web", "blue", "--restart", "always", ...BOTH);
      await killAndStart();
      await until(
        "the container to run",
        async () => (await site.host.api.listContainers()).length === 1,
        30_000,
      );
      await answerers.start(site.host, "web", [80], "web");
      await isReached("web");
      assert.equal((await bound()).length, 4);
    });

  async function killEngine(): Promise<void> {
    await site.host.killEngine();
    await site.host.startEngine();
  }

  async function killBoth(): Promise<void> {
    await Promise.all([site.host.killEngine(), site.host.killTsnet()]);
    const engine = site.host.startEngine();
    await sleep(LATE_MS);
    await site.host.startTsnet();
    await engine;
  }

  async function taken(address: string): Promise<Listener> {
    const listener = await listen(site, address);
    listeners.push(listener);
    return listener;
  }

  /** Who has the ports that these tests publish: protocol and address. */
  async function bound(): Promise<string[]> {
    const { stdout } = await site.exec(["ss", "-Hlntup"]);
    const lines = stdout.split("\n").filter((line) => line.includes("node"));
    return lines
      .map((line) => line.split(/\s+/))
      .map(([protocol = "", , , , at = ""]) => `${protocol} ${at}`);
  }

  async function isReached(name: string): Promise<void> {
    const questions = Object.values(site.address).flatMap((address): Question[] => [
      { address, port: PORT },
      { address, port: PORT, protocol: "udp" },
    ]);
    const near = site.neighbourAddress;
    assert.deepEqual(
      await ask(site.neighbour, questions),
      [near.v4, near.v4, near.v6, near.v6].map((seen) => `${name} ${seen}`),
    );
  }
});
