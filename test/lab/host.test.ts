import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { engineOrSkip } from "../support/engine-or-skip.ts";
import { run } from "./command.ts";
import { ENGINE_LINES, type EngineLine } from "./engines.ts";
import { LabHost } from "./host.ts";
import { Underlay } from "./underlay.ts";

describe("LabHost", function () {
  // The first run downloads the engines.
  this.timeout(300_000);

  let underlay: Underlay;
  let neighbour: LabHost;
  before(async () => {
    underlay = await Underlay.start({ name: "lab-wire" });
    neighbour = await LabHost.start({ name: "plain", underlay });
  });
  after(async () => {
    await neighbour.stop();
    await underlay.stop();
  });

  for (const line of ENGINE_LINES) {
    describe(`with engine ${line}`, () => {
      itRuns(line, () => ({ underlay, neighbour }));
    });
  }

  it("kills a command with its children after the timeout", async () => {
    await assert.rejects(
      neighbour.exec(["sh", "-c", "sleep 60; true"], { timeoutMs: 200 }),
      /no end after 200 ms/,
    );
    const { stdout } = await neighbour.exec(["ps", "-ef"]);
    assert.match(stdout, /ps -ef/);
    assert.doesNotMatch(stdout, /sleep 60/);
  });

  it("adds no link to the machine's own namespace", async () => {
    const link = `port-${neighbour.name}`;
    assert.match((await underlay.exec(["ip", "-br", "link"])).stdout, new RegExp(link));
    assert.doesNotMatch((await run(["ip", "-br", "link"])).stdout, new RegExp(link));
  });
});

/** @param lab what the `before` hooks have made by the time a test runs */
function itRuns(line: EngineLine, lab: () => { underlay: Underlay; neighbour: LabHost }): void {
  let host: LabHost;
  const started: LabHost[] = [];
  before(async function () {
    const name = `e${line.replace(".", "")}`;
    host = await engineOrSkip(this, LabHost.start({ name, engine: line, underlay: lab().underlay }));
    started.push(host);
  });
  after(() => Promise.all(started.map((each) => each.stop())));

  it("runs that engine", async () => {
    const version = await host.docker("version", "--format", "{{.Server.Version}}");
    assert.ok(version.startsWith(`${line}.`), version);
    assert.ok(version.startsWith(host.engine?.version ?? "none"), version);
  });

  it("is reached by its neighbours over IPv4 and IPv6", async () => {
    assert.ok(host.address);
    const { neighbour } = lab();
    await neighbour.exec(["ping", "-c", "1", "-W", "2", host.address.v4]);
    await neighbour.exec(["ping", "-c", "1", "-W", "2", host.address.v6]);
  });

  it("runs containers that reach each other", async () => {
    await host.docker("network", "create", "blue");
    await host.docker("run", "--detach", "--name", "c1", "--network", "blue", "tsnet/box");
    await host.docker("run", "--detach", "--name", "c2", "--network", "blue", "tsnet/box");
    await host.docker("exec", "c1", "ping", "-c", "1", "-W", "2", "c2");
    const { NetworkSettings: settings } = await host.api.getContainer("c2").inspect();
    const address = settings.Networks["blue"]?.IPAddress ?? "";
    await host.inContainer("c1", ["ping", "-c", "1", "-W", "2", address]);
  });

  it("has its engine back after a crash", async () => {
    await host.killEngine();
    await assert.rejects(host.api.ping());
    await host.startEngine();
    await host.docker("start", "c1", "c2");
    await host.docker("exec", "c1", "ping", "-c", "1", "-W", "2", "c2");
  });

  it("leaves no process and no directory when it is stopped, and may be stopped again", async () => {
    await host.stop();
    assert.equal(existsSync(`/proc/${String(host.pid)}`), false);
    assert.equal(existsSync(host.dir), false);
  });
}
