import assert from "node:assert/strict";
import { rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Answerers } from "./answers.ts";
import { onEachEngine } from "./each-engine.ts";
import { interfaces } from "./interfaces.ts";
import { pings } from "./packets.ts";
import { type Place, subnets } from "./site.ts";
import { Stream } from "./stream.ts";
import { until } from "./until.ts";

/** When tsnet is started after the engine, which looks for it for 15 s. */
const LATE_MS = 2000;

onEachEngine("restarts", (site) => {
  const net = subnets();
  const answerers = new Answerers();

  before(async () => {
    const always = ["--restart", "always"];
    await site.network("blue", "--ipv6", "--subnet", net.v4, "--subnet", net.v6);
    await Promise.all([
      site.run("one", "blue", ...always, "--ip", net.ip(10), "--ip6", net.ip6(10)),
      site.run(
        "two",
        "blue",
        ...always,
        "-p",
        "8090:80",
        "-p",
        "8090:80/udp",
        "--ip",
        net.ip(20),
        "--ip6",
        net.ip6(20),
      ),
    ]);
  });

  afterEach(() => answerers.stop());

  for (const [how, stop] of [
    ["stopped", () => site.host.stopTsnet()],
    ["killed", () => site.host.killTsnet()],
  ] as const)
    it(`loses no packet and no connection while tsnet is ${how} and started again`, async () => {
      const one = site.container("one");
      const targets = [net.ip(20), net.ip6(20), site.neighbourAddress.v4, site.neighbourAddress.v6];
      await Stream.serve(answerers, site.host, "two", 80);
      const streams = await Promise.all(
        Object.values(site.address).map((at) => Stream.start(answerers, site.neighbour, at, 8090)),
      );
      const flows = targets.map((address) => new Flow(one, address, site.host.dir));
      await stop();
      assert.equal(await pings(one, net.ip(20)), true);
      await site.host.startTsnet();
      for (const flow of flows) await flow.losesNothing();
      for (const stream of streams) await stream.losesNothing();
    });

  it("has containers back that always restart when the engine restarts", async () => {
    await site.host.stopEngine();
    await site.host.startEngine();
    await allIsBack();
  });

  it("has them back when engine and tsnet restart", async () => {
    await site.host.stopEngine();
    await site.host.stopTsnet();
    await site.host.startTsnet();
    await site.host.startEngine();
    await allIsBack();
  });

  it("has them back when the engine is started before tsnet", async () => {
    await site.host.stopEngine();
    await site.host.stopTsnet();
    const engine = site.host.startEngine();
    await sleep(LATE_MS);
    await site.host.startTsnet();
    await engine;
    await allIsBack();
  });

  it("has them back when engine and tsnet are killed", async () => {
    await Promise.all([site.host.killEngine(), site.host.killTsnet()]);
    await site.host.startTsnet();
    await site.host.startEngine();
    await allIsBack();
  });

  it("keeps its networks while an engine runs without the data directory that knows them", async () => {
    const data = join(site.host.dir, "docker");
    await site.host.stopEngine();
    await rename(data, `${data}.away`);
    const logged = (await site.host.tsnetLog()).length;
    await site.host.startEngine();
    const log = async () => (await site.host.tsnetLog()).slice(logged);
    await until("tsnet to tell of it", async () => (await log()).includes("another data directory"), 15_000);
    assert.equal(await site.docker("network", "ls", "--quiet", "--filter", "driver=tsnet"), "");
    assert.doesNotMatch(await log(), /no longer knows/);
    await site.host.stopEngine();
    await rm(data, { recursive: true });
    await rename(`${data}.away`, data);
    await site.host.startEngine();
    await allIsBack();
  });

  it("loses no packet while the engine restarts with live-restore, and its containers can be changed then", async () => {
    await liveRestore();
    const one = site.container("one");
    const targets = [net.ip(20), net.ip6(20), site.neighbourAddress.v4, site.neighbourAddress.v6];
    const flows = targets.map((address) => new Flow(one, address, site.host.dir));
    await site.host.stopEngine();
    await site.host.startEngine();
    await site.host.killEngine();
    await site.host.startEngine();
    for (const flow of flows) await flow.losesNothing();
    await allIsBack();
    await site.network("green");
    await site.docker("network", "connect", "green", "one");
    await site.docker("network", "disconnect", "blue", "two");
    await site.docker("network", "connect", "--ip", net.ip(20), "--ip6", net.ip6(20), "blue", "two");
    await site.docker("restart", "-t", "0", "one");
    await site.docker("network", "disconnect", "green", "one");
    await site.docker("network", "rm", "green");
    await allIsBack();
  });

  /** Has the engine leave its containers alone when it ends, from its next start on. */
  async function liveRestore(): Promise<void> {
    const file = "/etc/docker/daemon.json";
    const restart = async () => {
      await site.host.stopEngine();
      await site.host.startEngine();
    };
    await site.exec(["sh", "-c", `echo '{ "live-restore": true }' >${file}`]);
    site.later(async () => {
      await site.exec(["rm", file]);
      await restart();
    });
    await restart();
    await allIsBack();
  }

  async function allIsBack(): Promise<void> {
    await until(
      "both containers to run",
      async () => {
        const running = await site.host.api.listContainers();
        return running.length === 2;
      },
      30_000,
    );
    const [one, two] = [site.container("one"), site.container("two")];
    for (const address of [net.ip(20), net.ip6(20), ...Object.values(site.neighbourAddress)])
      assert.equal(await pings(one, address), true, address);
    for (const address of [net.ip(10), net.ip6(10)]) assert.equal(await pings(two, address), true, address);
    const near = Object.keys(await interfaces(site)).filter((name) => name.startsWith("tsh"));
    assert.equal(near.length, 2);
  }
});

/** An echo request every 20 ms from when it is made until it is told to end. */
class Flow {
  readonly address: string;
  readonly #from: Place;
  readonly #pidFile: string;
  readonly #done: Promise<string>;

  /** @param dir a directory of the host's */
  constructor(from: Place, address: string, dir: string) {
    this.address = address;
    this.#from = from;
    this.#pidFile = join(dir, `ping-${address}.pid`);
    const script = 'echo $$ >"$0"; exec ping -i0.02 "$1"';
    this.#done = from.exec(["sh", "-c", script, this.#pidFile, address]).then(({ stdout }) => stdout);
  }

  /** Has it end; fails if a request was not answered. */
  async losesNothing(): Promise<void> {
    const { sent, answered } = await this.end();
    assert.ok(sent > 10, `${String(sent)} sent`);
    assert.equal(answered, sent, this.address);
  }

  /** Has ping end as with Ctrl-C. @returns how many requests were sent, and how many were answered */
  async end(): Promise<{ sent: number; answered: number }> {
    await this.#from.exec(["sh", "-c", 'kill -INT "$(cat "$0")"', this.#pidFile]);
    const summary = /(\d+) packets transmitted, (\d+) received/.exec(await this.#done);
    return { sent: Number(summary?.[1]), answered: Number(summary?.[2]) };
  }
}
