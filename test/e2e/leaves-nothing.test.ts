import assert from "node:assert/strict";
import { allAtOnce, onEachEngine } from "./each-engine.ts";
import { addresses, bridgeOf, hostEndOf, interfaces, link } from "./interfaces.ts";
import { pings } from "./packets.ts";
import { type Site, subnets } from "./site.ts";
import { type Snapshot, mustBe, onHost, recordsOf } from "./snapshot.ts";
import { until } from "./until.ts";

/** `docker rm -f` of a container on an internal network makes two calls, each tried for 15 s (PROTOCOL.md 1.6). */
const GIVES_UP_MS = 30_000;

/** The engine waits 15 seconds per call for a plugin that is down. */
const removedWhileDown = allAtOnce(removeWhileDown);

onEachEngine("leaves nothing behind", (site) => {
  let before: Snapshot;

  beforeEach(async () => {
    before = await onHost(site);
  });

  afterEach(() => site.clear());

  it("after create, run, connect, disconnect, restart and remove in mixed order", async () => {
    const marked = (await site.host.tsnetLog()).length;
    await dualStack(site, "red");
    await site.run("c1", "red");
    await dualStack(site, "blue");
    await site.docker("network", "connect", "blue", "c1");
    await site.run("c2", "blue", "-p", "8080:80");
    await site.docker("network", "disconnect", "red", "c1");
    await site.docker("restart", "c1");
    await site.docker("network", "connect", "red", "c2");
    await site.docker("network", "rm", "red").catch(() => "in use");
    await site.docker("stop", "c1");
    await site.docker("network", "disconnect", "blue", "c1");
    await site.docker("start", "c1");
    await site.docker("network", "disconnect", "-f", "blue", "c2");
    await site.docker("network", "rm", "blue");
    await site.docker("rm", "-f", "c2", "c1");
    await site.docker("network", "rm", "red");
    await mustBe(before, site);
    assert.deepEqual(complaints(await site.host.tsnetLog(), marked), []);
  });

  it("after eight containers came and went on three networks at once", async () => {
    const marked = (await site.host.tsnetLog()).length;
    const names = ["red", "green", "blue"];
    await Promise.all(names.map((name) => dualStack(site, name)));
    const containers = Array.from({ length: 8 }, (_, index) => ({
      name: `c${String(index)}`,
      on: names[index % 3] ?? "",
      also: names[(index + 1) % 3] ?? "",
    }));
    await Promise.all(
      containers.map(async ({ name, on, also }, index) => {
        await site.run(name, on);
        if (index % 2 === 0) await site.docker("network", "connect", also, name);
        if (index % 3 === 0) await site.docker("restart", "-t", "0", name);
        if (index % 4 === 0) await site.docker("network", "disconnect", on, name);
        await site.docker("rm", "-f", name);
      }),
    );
    await Promise.all(names.map((name) => site.docker("network", "rm", name)));
    await mustBe(before, site);
    assert.deepEqual(complaints(await site.host.tsnetLog(), marked), []);
  });

  it("of a container that cannot be started", async () => {
    await dualStack(site, "red");
    const empty = await onHost(site);
    const run = ["run", "-d", "--network", "red"];
    assert.match(await site.refused(...run, "tsnet/box", "/no/such/program"), /no such file/);
    assert.match(await site.refused(...run, "--ip", "192.0.2.1", "tsnet/box"), /192\.0\.2\.1/);
    await site.removeContainers();
    await mustBe(empty, site);
    await site.docker("network", "rm", "red");
    await mustBe(before, site);
  });

  it("when tsnet is killed between everything", async () => {
    await dualStack(site, "red");
    await killAndStart();
    const [c1] = await Promise.all([site.run("c1", "red"), site.run("c2", "red")]);
    await killAndStart();
    const { v4, v6 } = await site.attachment("c2", "red");
    assert.equal(await pings(c1, v4), true);
    assert.equal(await pings(c1, v6), true);
    await dualStack(site, "blue");
    await site.docker("network", "connect", "blue", "c1");
    await site.docker("network", "disconnect", "red", "c1");
    await killAndStart();
    await site.docker("rm", "-f", "c1", "c2");
    await killAndStart();
    await Promise.all([site.docker("network", "rm", "red"), site.docker("network", "rm", "blue")]);
    await mustBe(before, site);
  });

  it("of what was removed while tsnet was down", async function () {
    this.timeout(4 * GIVES_UP_MS);
    await removedWhileDown(site);
  });

  async function killAndStart(): Promise<void> {
    await site.host.killTsnet();
    await site.host.startTsnet();
  }
});

async function removeWhileDown(site: Site): Promise<void> {
  const before = await onHost(site);
  const staying = await site.network("red", "--internal");
  const going = await site.network("blue");
  await Promise.all(["c1", "c2"].map((name) => site.run(name, "red")));
  // An engine that is killed forgets its containers' endpoints without a word (PROTOCOL.md 3.5).
  await site.host.killEngine();
  await site.host.startEngine();
  await site.docker("start", "c1", "c2");
  const { id } = await site.attachment("c1", "red");
  await site.host.stopTsnet();
  try {
    await Promise.all([site.docker("rm", "-f", "c1"), site.docker("network", "rm", "blue")]);
  } finally {
    await site.host.startTsnet();
  }
  // It compares as soon as it has started, and nothing is so young any more that it would be spared.
  await until("what the engine forgot to be deleted", async () => {
    const links = await interfaces(site);
    return !(hostEndOf(id) in links) && !(bridgeOf(going) in links) && recordsOf(site).length === 2;
  });
  const [gateway = ""] = addresses(await link(site, bridgeOf(staying)));
  assert.equal(await pings(site.container("c2"), gateway.split("/")[0] ?? ""), true);
  await site.clear();
  await mustBe(before, site);
}

async function dualStack(site: Site, name: string): Promise<void> {
  const { v4, v6 } = subnets();
  await site.network(name, "--ipv6", "--subnet", v4, "--subnet", v6);
}

/** What tsnet warned of since its log had that length: nothing is wrong, so nothing is to be repaired. */
function complaints(log: string, since: number): string[] {
  const lines = log.slice(since).split("\n").filter(Boolean);
  return lines.filter((line) => (JSON.parse(line) as { level: number }).level >= 40);
}
