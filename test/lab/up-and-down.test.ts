import assert from "node:assert/strict";
import { engineOrSkip } from "../support/engine-or-skip.ts";
import type { CommandResult } from "./command.ts";
import { CHECKOUT, FreshHost } from "./fresh-host.ts";

const SCRIPTS = ["up", "down"] as const;

/** Of what is left by an engine that has ended: nobody takes its bridge, chains and data away. */
const OF_THE_ENGINE = /docker|containerd/i;

/** What can be seen of a host from which scripts/down has taken everything. */
type Picture = Readonly<Record<"links" | "rules" | "files" | "processes", readonly string[]>>;

describe("scripts/up and scripts/down", function () {
  // The first run downloads the engine.
  this.timeout(300_000);

  let host: FreshHost;
  let untouched: Picture;
  const started: FreshHost[] = [];

  before(async function () {
    host = await engineOrSkip(this, FreshHost.start("fresh", "28.5"));
    started.push(host);
    untouched = await picture();
  });
  after(() => Promise.all(started.map((each) => each.stop())));

  for (const name of SCRIPTS) {
    it(`${name} says what it does when it is asked, and does nothing`, async () => {
      const { code, stdout } = await host.script(name, "--help");
      assert.equal(code, 0);
      assert.match(stdout, new RegExp(`^Usage: sudo scripts/${name}\n`));
    });

    it(`${name} refuses an option that it does not know`, async () => {
      const { code, stderr } = await host.script(name, "--fast");
      assert.equal(code, 2);
      assert.match(stderr, new RegExp(`scripts/${name}: no option "--fast"\n$`));
    });

    it(`${name} refuses to run without root`, async () => {
      // Not everybody may read the checkout.
      await host.sh(`mkdir -p /run/own/checkout && cp -r "${CHECKOUT}/scripts" /run/own/checkout`);
      const nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups";
      const said = await host.sh(`${nobody} /run/own/checkout/scripts/${name} 2>&1 || echo "status $?"`);
      assert.equal(said, `scripts/${name}: needs root: sudo scripts/${name}\nstatus 1`);
    });
  }

  it("down has nothing to undo on a host where up never ran", async () => {
    succeeded(await host.script("down"));
    assert.deepEqual(await picture(), untouched);
  });

  it("up ends with two containers that reach each other and the host, and shows how", async () => {
    const shown = succeeded(await host.script("up"));
    assert.equal(shown.match(/3 packets transmitted, 3 packets received/g)?.length, 2, shown);
    assert.match(shown, /^ts-[0-9a-f]{12} +UP /m);
    assert.equal(shown.match(/^tsh[0-9a-f]{12}@\S+ +UP /gm)?.length, 2, shown);
    assert.match(shown, /^-A TSNET-MASQUERADE -s \S+ ! -o ts-[0-9a-f]{12} .* -j MASQUERADE$/m);
    // What it says can be typed next.
    const [, next = ""] = shown.split("\nNext:\n");
    for (const command of ["docker network create -d tsnet blue", "docker exec tsnet-a ping tsnet-b"])
      assert.ok(next.includes(`  ${command}\n`), next);
    await host.docker("network", "create", "-d", "tsnet", "blue");
    await host.docker("network", "rm", "blue");
    assert.match(await host.sh("tsnet status"), /^networks +1\nendpoints +2$/m);
  });

  it("up leaves as it is what runs already", async () => {
    const seen = () => host.sh("cat /run/tsnet/*.pid; ip -br link");
    const first = await seen();
    const shown = succeeded(await host.script("up"));
    assert.match(shown, /^ +runs already, PID \d+$/m);
    assert.match(shown, /^ +network tsnet is there$/m);
    assert.equal(await seen(), first);
  });

  it("down refuses while no tsnet runs that could take its network down", async () => {
    await host.sh("kill -9 $(cat /run/tsnet/tsnet.pid)");
    const { code, stderr } = await host.script("down");
    assert.equal(code, 1);
    assert.match(stderr, /^scripts\/down: no tsnet answers.*scripts\/up starts it again/);
    assert.equal(await host.docker("ps", "--quiet").then((ids) => ids.split("\n").length), 2);
  });

  it("down leaves a container of one's own its network, and a command that is not up's", async () => {
    await host.sh("rm /usr/local/bin/tsnet");
    await host.sh("mkdir -p /run/own/mine/dist && touch /run/own/mine/dist/main.js");
    await host.sh("ln -s /run/own/mine/dist/main.js /usr/local/bin/tsnet");
    succeeded(await host.script("up"));
    await host.docker("run", "--detach", "--name", "mine", "--network", "tsnet", "tsnet/box");
    const shown = succeeded(await host.script("down"));
    assert.match(shown, /^network tsnet is kept$/m);
    assert.match(shown, /^image tsnet\/box is in use: kept$/m);
    assert.deepEqual(await host.processes(), untouched.processes);
    assert.equal(await host.sh("readlink /usr/local/bin/tsnet"), "/run/own/mine/dist/main.js");
    await host.sh("rm -r /run/own/mine /usr/local/bin/tsnet");
  });

  it("down leaves the host as it was before up, and may be run again", async () => {
    succeeded(await host.script("up"));
    await host.docker("rm", "--force", "mine");
    const shown = succeeded(await host.script("down"));
    for (const what of ["container tsnet-a", "container tsnet-b", "network tsnet", "image tsnet/box"])
      assert.ok(shown.includes(`removed ${what}\n`), shown);
    assert.deepEqual(await picture(), untouched);
    succeeded(await host.script("down"));
    assert.deepEqual(await picture(), untouched);
  });

  async function picture(): Promise<Picture> {
    const lines = async (command: string) =>
      (await host.sh(command)).split("\n").filter((line) => line !== "" && !OF_THE_ENGINE.test(line));
    return {
      links: await lines("ip -br link | cut -d' ' -f1"),
      rules: await lines("for save in iptables-save ip6tables-save; do $save | grep '^-A' || true; done"),
      files: await lines(
        "ls -d /run/* /run/docker/plugins/* /var/lib/* /usr/local/bin/* 2>/dev/null || true",
      ),
      processes: await host.processes(),
    };
  }
});

/** @returns what it wrote, if it succeeded */
function succeeded({ code, stdout, stderr }: CommandResult): string {
  assert.equal(code, 0, `${stdout}\n${stderr}`);
  return stdout;
}
