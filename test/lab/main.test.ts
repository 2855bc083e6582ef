import assert from "node:assert/strict";
import { engineOrSkip } from "../support/engine-or-skip.ts";
import { CHECKOUT, FreshHost } from "./fresh-host.ts";

/** Where the lab keeps what it makes; on the host of this file it is the host's own. */
const LEFT =
  "ls /var/tmp; ls -d /sys/fs/cgroup/tsnet-lab-h[12]-* /sys/fs/cgroup/*/tsnet-lab-h[12]-* 2>/dev/null || true";

/** A process with a namespace, as a test has it. */
const OWNER = `import { Namespace } from "./test/lab/namespace.ts";
  await Namespace.start({ name: "owned" });
  setInterval(() => undefined, 1000);`;

describe("scripts/lab", function () {
  // The first run downloads the engine.
  this.timeout(300_000);

  let host: FreshHost;
  let processes: readonly string[];
  const started: FreshHost[] = [];
  const lab = (...args: string[]) => host.script("lab", ...args);
  const says = async (...args: string[]) => {
    const { code, stdout, stderr } = await lab(...args);
    assert.equal(code, 0, `${stdout}\n${stderr}`);
    return stdout;
  };

  before(async function () {
    host = await engineOrSkip(this, FreshHost.start("with-a-lab", "28.5"));
    started.push(host);
    // The lab lays one over /etc, and there cannot be many, one upon the other.
    await host.sh("umount /etc");
    processes = await host.processes();
  });
  after(async () => {
    for (const each of started) {
      await each.script("lab", "down");
      await each.stop();
    }
  });

  it("has no hosts at first, and says how to start some", async () => {
    assert.match(await says("status"), /^No hosts\. Start some: scripts\/lab up$/m);
  });

  it("refuses an engine that there is not, and a number of hosts that is none", async () => {
    assert.match((await lab("up", "--engine", "19")).stderr, /there are 20\.10, 26\.1, 28\.5/);
    assert.match((await lab("up", "--hosts", "none")).stderr, /a number from 1 to 200/);
    assert.equal(await host.sh(LEFT), "");
  });

  it("starts hosts with engine and tsnet, and says what can be typed next", async () => {
    const said = await says("up", "--hosts", "2", "--engine", "28");
    assert.match(said, /^h1 +28\.5\.\S+ +runs +0 +10\.111\.0\.1 +fd00:111::1 /m);
    assert.match(said, /^h2 +28\.5\.\S+ +runs +0 +10\.111\.0\.2 +fd00:111::2 /m);
    assert.match(said, /^ {2}scripts\/lab exec h1 -- docker network create -d tsnet blue$/m);
  });

  it("leaves them alone when it is told to start them again", async () => {
    const directories = await host.sh("ls /var/tmp");
    assert.match(await says("up"), /^The lab is up already/);
    assert.equal(await host.sh("ls /var/tmp"), directories);
  });

  it("runs commands on a host, with their output and status", async () => {
    await says("exec", "h1", "--", "docker", "network", "create", "-d", "tsnet", "blue");
    await says("exec", "h1", "--", "docker", "run", "-d", "--name", "web", "--network", "blue", "tsnet/box");
    const ping = ["docker", "run", "--rm", "--network", "blue", "tsnet/box", "ping", "-c", "1", "web"];
    assert.match(await says("exec", "h1", "--", ...ping), / 1 packets received/);
    await says("exec", "h1", "--", "ping", "-c", "1", "-W", "2", "10.111.0.2");
    assert.equal(await says("exec", "h2", "hostname"), "h2\n");
    assert.equal((await lab("exec", "h2", "--", "sh", "-c", "exit 7")).code, 7);
    assert.match(await says("status"), /^h1 .* runs +1 /m);
  });

  it("names the hosts there are when it is asked for another", async () => {
    const { code, stderr } = await lab("exec", "h3", "--", "true");
    assert.deepEqual([code, stderr], [1, "scripts/lab: no host h3; there are h1, h2\n"]);
  });

  it("leaves them alone when only what killed tests have left is to go, as at the end of scripts/test", async () => {
    const directories = await host.sh("ls /var/tmp");
    assert.equal(await says("sweep"), "Nothing to end.\n");
    assert.equal(await host.sh("ls /var/tmp"), directories);
    assert.match(await says("status"), /^h1 +28\.5\.\S+ +runs /m);
  });

  it("adds no link to the machine's own namespace", async () => {
    assert.equal(await host.sh("ls /sys/class/net"), "lo");
  });

  it("leaves nothing when it ends them", async () => {
    assert.match(await says("down"), /^Ended: (?=.*\bh1\b)(?=.*\bh2\b)(?=.*\bunderlay\b)/);
    assert.equal(await host.sh(LEFT), "");
    assert.deepEqual(await host.processes(), processes);
    assert.equal(await says("down"), "Nothing to end.\n");
  });

  it("ends no host of a process that runs, and what one that was killed has left", async () => {
    await host.sh(`cd "${CHECKOUT}"
      node --import tsx --input-type=module -e '${OWNER}' >/dev/null 2>&1 & echo $! >/run/owner
      until grep -q holder /var/tmp/tsnet-lab-owned-*/record.json; do sleep 0.1; done`);
    const ofTheOwner = await host.sh("ls /var/tmp");
    assert.equal(await says("down"), "Nothing to end.\n");
    assert.equal(await host.sh("ls /var/tmp"), ofTheOwner);
    await host.sh("kill -9 $(cat /run/owner)");
    assert.equal(await says("sweep"), "Ended: owned\n");
    assert.equal(await host.sh(LEFT), "");
  });
});
