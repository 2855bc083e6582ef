import assert from "node:assert/strict";
import { Firewalld } from "../lab/firewalld.ts";
import { LabHost } from "../lab/host.ts";
import { BOX } from "../lab/image.ts";
import { Underlay, type UnderlayAddress } from "../lab/underlay.ts";
import { engineOrSkip } from "../support/engine-or-skip.ts";
import { Answerers, type Question, ask } from "./answers.ts";
import type { Place } from "./site.ts";
import { until } from "./until.ts";

const BLUE = ["10.31.0.0/24", "fd31::/64"];
const WEB = ["10.31.0.10", "fd31::a"] as const;
const PEER = ["10.31.0.20", "fd31::14"] as const;
const GREEN = ["10.32.0.0/24", "fd32::/64"];
const PORT = 8080;
const NEAR_PORT = 8090;

for (const backend of ["nftables", "iptables"] as const)
  describe(`beside firewalld (${backend})`, function () {
    this.timeout(120_000);
    const answerers = new Answerers();
    let underlay: Underlay | undefined;
    let near: LabHost;
    let host: LabHost;
    let firewalld: Firewalld;

    // A host of its own: when firewalld goes it takes everybody's rules along, the engine's as well.
    before(async function () {
      this.timeout(900_000);
      underlay = await Underlay.start({ name: "fwd" });
      near = await LabHost.start({ name: "fwd-near", underlay });
      const starting = LabHost.start({ name: "fwd-host", engine: "28.5", underlay, tsnet: true });
      host = await engineOrSkip(this, starting);
      firewalld = await Firewalld.start(host, backend);
      // The reload for tsnet's new zone would take along the rules that an engine is just making.
      await until("the zone", async () => (await firewalld.cmd("--get-zones")).includes("tsnet"));
      // The engine asks for firewalld only when it starts.
      await host.stopEngine();
      await host.startEngine();
      await answerers.start(near, "near", [NEAR_PORT]);
      await network("blue", BLUE);
      await network("green", GREEN);
      await run("web", "blue", WEB, "-p", `${PORT}:80`, "-p", `${PORT}:80/udp`);
      await run("peer", "blue", PEER);
      await run("other", "green", ["10.32.0.10", "fd32::a"]);
      await answerers.start(host, "web", [80], "web");
    });
    after(async () => {
      await answerers.stop();
      for (const machine of [host, near, underlay]) await machine?.stop();
    });

    it("containers reach the outside and each other, and are reached by their published ports", async () => {
      await works();
      assert.equal(await zoneOf("blue"), "tsnet");
      // The engine has a zone for its own bridges.
      assert.equal(await firewalld.cmd("--get-zone-of-interface=docker0"), "docker");
    });

    it("they would be cut off without tsnet's zone, and are not for long when somebody takes it away", async () => {
      await host.stopTsnet();
      await firewalld.cmd("--zone=public", `--change-interface=${await bridgeOf("blue")}`);
      try {
        const answers = await ask(container("web"), outside(true));
        // With iptables its rules stand behind tsnet's, in the same chain; a table of its own has the last word.
        const through = answers.filter((answer) => answer.startsWith("near")).length;
        assert.equal(through, backend === "nftables" ? 0 : 2, answers.join(", "));
      } finally {
        await host.startTsnet();
      }
      await worksSoon();
      await firewalld.cmd("--zone=public", `--change-interface=${await bridgeOf("blue")}`);
      await worksSoon();
      await firewalld.cmd("--zone=tsnet", `--remove-interface=${await bridgeOf("blue")}`);
      await worksSoon();
    });

    it("is the same after firewall-cmd --reload and --complete-reload", async () => {
      for (const how of ["--reload", "--complete-reload", "--reload"]) {
        await firewalld.cmd(how);
        await worksSoon();
      }
    });

    it("is the same after firewalld was restarted, and while it is gone", async () => {
      await firewalld.stopDaemon();
      await worksSoon();
      await firewalld.startDaemon();
      await worksSoon();
    });

    it("is the same where zone and policy are there from the last time", async () => {
      await host.stopTsnet();
      try {
        await firewalld.stopDaemon();
      } finally {
        await host.startTsnet();
      }
      await firewalld.startDaemon();
      await worksSoon();
    });

    it("a bridge is in the zone as soon as its network is there, and leaves with it", async () => {
      await network("amber", ["10.33.0.0/24", "fd33::/64"]);
      const bridge = await bridgeOf("amber");
      assert.equal(await zoneOf("amber"), "tsnet");
      await host.docker("network", "rm", "amber");
      const { stdout } = await host.exec(["sh", "-c", "cat /etc/firewalld/zones/tsnet.xml"]);
      assert.doesNotMatch(stdout, /interface/);
      const bridges = (await firewalld.cmd("--zone=tsnet", "--list-interfaces")).split(" ");
      assert.ok(!bridges.includes(bridge) && bridges.length === 2, bridges.join(" "));
    });

    it("a bridge that the user has put into a zone stays there", async () => {
      await host.exec(["ip", "link", "add", "mine", "type", "bridge"]);
      await firewalld.cmd("--zone=home", "--change-interface=mine");
      const own = ["-o", "com.docker.network.bridge.name=mine", "--subnet", "10.34.0.0/24"];
      await host.docker("network", "create", "-d", "tsnet", ...own, "mine");
      assert.equal(await firewalld.cmd("--get-zone-of-interface=mine"), "home");
      await host.docker("network", "rm", "mine");
      assert.equal(await firewalld.cmd("--get-zone-of-interface=mine"), "home");
    });

    it("a bus that hangs keeps a request waiting for a second, once, and gets it all when it goes on", async () => {
      const seconds = async (name: string, number: number) => {
        const start = performance.now();
        await network(name, [`10.${number}.0.0/24`, `fd${number}::/64`]);
        return (performance.now() - start) / 1000;
      };
      await firewalld.hold(true);
      try {
        assert.ok((await seconds("slow", 41)) < 5);
        // One of them may take that long by itself, on a machine under load.
        const others = [await seconds("second", 42), await seconds("third", 44), await seconds("fourth", 45)];
        assert.ok(Math.min(...others) < 0.9, others.join(", "));
      } finally {
        await firewalld.hold(false);
      }
      for (const name of ["slow", "second", "third", "fourth"]) {
        await until(`${name} to be in the zone`, async () => (await zoneOf(name)) === "tsnet");
        await host.docker("network", "rm", name);
      }
      await works();
    });

    it("all goes on when the bus has gone, and when there is one again", async () => {
      await firewalld.stop();
      await network("lonely", ["10.43.0.0/24", "fd43::/64"]);
      await host.docker("network", "rm", "lonely");
      await worksSoon();
      firewalld = await Firewalld.start(host, backend);
      await worksSoon();
    });

    async function network(name: string, [v4 = "", v6 = ""]: readonly string[]): Promise<void> {
      await host.docker(
        ...["network", "create", "-d", "tsnet", "--ipv6", "--subnet", v4, "--subnet", v6, name],
      );
    }

    async function run(name: string, on: string, [v4 = "", v6 = ""]: readonly string[], ...args: string[]) {
      const addresses = ["--ip", v4, "--ip6", v6];
      await host.docker("run", "-d", "--name", name, "--network", on, ...addresses, ...args, BOX);
    }

    function container(name: string): Place {
      return { exec: (argv, options) => host.inContainer(name, argv, options) };
    }

    async function bridgeOf(name: string): Promise<string> {
      return `ts-${(await host.docker("network", "inspect", "-f", "{{.Id}}", name)).slice(0, 12)}`;
    }

    async function zoneOf(name: string): Promise<string> {
      return await firewalld.cmd(`--get-zone-of-interface=${await bridgeOf(name)}`).catch(() => "none");
    }

    function outside(unexpected = false): Question[] {
      return both(near).map((address) => ({ address, port: NEAR_PORT, unexpected }));
    }

    /** Sends everything there is, and nothing arrives where it must not. */
    async function works(): Promise<void> {
      const [host4, host6] = both(host);
      const [near4, near6] = both(near);
      assert.deepEqual(await ask(container("web"), outside()), [`near ${host4}`, `near ${host6}`], "out");
      const published = [host4, host6].flatMap((address): Question[] => [
        { address, port: PORT },
        { address, port: PORT, protocol: "udp" },
      ]);
      const seen = [near4, near4, near6, near6].map((address) => `web ${address}`);
      assert.deepEqual(await ask(near, published), seen, "in");
      const direct = WEB.map((address) => ({ address, port: 80 }));
      assert.deepEqual(
        await ask(container("peer"), direct),
        PEER.map((address) => `web ${address}`),
        "within",
      );
      const others = direct.map((question) => ({ ...question, unexpected: true }));
      assert.deepEqual(await ask(container("other"), others), ["nothing", "nothing"], "between");
    }

    /** As `works`, after something that tsnet hears of and puts right. */
    async function worksSoon(): Promise<void> {
      let why: unknown;
      await until(
        "containers to be reached",
        () =>
          works().then(
            () => true,
            (error: unknown) => {
              why = error;
              return false;
            },
          ),
        20_000,
      ).catch((error: unknown) => {
        throw new Error("not put right", { cause: why ?? error });
      });
    }
  });

/** Bare addresses of a host on the wire. */
function both({ address, name }: LabHost): [UnderlayAddress["v4"], UnderlayAddress["v6"]] {
  assert.ok(address, name);
  return [address.v4, address.v6];
}
