import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { Answerers, ask } from "./answers.ts";
import { onEachEngine } from "./each-engine.ts";
import { interfaces } from "./interfaces.ts";
import { pings } from "./packets.ts";
import { endPowerCycles, powerCycle } from "./power.ts";
import { subnets } from "./site.ts";
import { until } from "./until.ts";

/** The engine looks for a plugin for 15 s. */
const LATE_MS = 2000;
const START_MS = 60_000;

const PARENT = "nic0";

onEachEngine("a reboot", (site) => {
  const blue = subnets();
  const green = subnets();
  const lan = subnets();
  const containers = ["one", "two", "in1", "in2", "lan1", "lan2"];
  const answerers = new Answerers();

  before(async () => {
    site.later(async () => {
      await endPowerCycles(site.host);
      await site.exec(["ip", "link", "delete", PARENT], { allowFailure: true });
      assert.deepEqual(await ownLinks(), []);
    });
    await plugIn();
    await site.network("blue", "--ipv6", "--subnet", blue.v4, "--subnet", blue.v6);
    await site.network("green", "--internal", "--subnet", green.v4);
    const macvlan = ["backend=macvlan", `parent=${PARENT}`, "host_access=on"];
    await site.network("lan", ...macvlan.flatMap((option) => ["-o", option]), "--subnet", lan.v4);
    await Promise.all([
      always("one", "blue", blue.ip(10), "--ip6", blue.ip6(10)),
      always("two", "blue", blue.ip(20), "--ip6", blue.ip6(20), "-p", "8080:80"),
      always("in1", "green", green.ip(10)),
      always("in2", "green", green.ip(20)),
      always("lan1", "lan", lan.ip(10)),
      always("lan2", "lan", lan.ip(20)),
    ]);
    await allIsBack();
  });
  after(() => answerers.stop());

  it("has every network and every restarting container back, tsnet before the engine", async () => {
    await powerCycle(site.host);
    assert.deepEqual(await ownLinks(), []);
    await plugIn();
    await site.host.startTsnet();
    await site.host.startEngine();
    await allIsBack();
  });

  it("has them back, the engine before tsnet, and a macvlan's parent after both", async () => {
    await powerCycle(site.host);
    assert.deepEqual(await ownLinks(), []);
    const engine = site.host.startEngine();
    await sleep(LATE_MS);
    await site.host.startTsnet();
    await engine;
    await plugIn();
    await allIsBack();
  });

  async function always(name: string, network: string, v4: string, ...args: string[]): Promise<void> {
    await site.run(name, network, "--restart", "always", "--ip", v4, ...args);
  }

  /** What the host's operating system does: a wire with nobody at its other end but the host. */
  async function plugIn(): Promise<void> {
    const commands = [
      `link add ${PARENT} type veth peer name nic1`,
      `link set ${PARENT} up`,
      "link set nic1 up",
      `address add ${lan.ip(1)}/24 dev ${PARENT}`,
    ];
    await site.exec(["ip", "-batch", "-"], { input: `${commands.join("\n")}\n` });
  }

  async function allIsBack(): Promise<void> {
    await until(
      "every container to run",
      async () => (await site.host.api.listContainers()).length === containers.length,
      START_MS,
    );
    const { v4, v6 } = site.neighbourAddress;
    const expected: readonly (readonly [string, readonly string[]])[] = [
      ["one", [blue.ip(20), blue.ip6(20), v4, v6]],
      ["two", [blue.ip(10), blue.ip6(10), v4, v6]],
      ["in1", [green.ip(20)]],
      ["lan1", [lan.ip(20)]],
    ];
    for (const [from, targets] of expected)
      for (const address of targets)
        await until(`${from} to reach ${address}`, () => pings(site.container(from), address));
    await until("the host to reach lan1", () => pings(site, lan.ip(10)));
    for (const [from, to] of [
      ["in1", blue.ip(10)],
      ["in1", v4],
      ["one", green.ip(10)],
    ] as const)
      assert.equal(await pings(site.container(from), to, { expected: false }), false, `${from} to ${to}`);
    const server = await answerers.start(site.host, "two", [80], "two");
    const questions = Object.values(site.address).map((address) => ({ address, port: 8080 }));
    assert.deepEqual(await ask(site.neighbour, questions), [`two ${v4}`, `two ${v6}`]);
    await answerers.stop(server);
  }

  async function ownLinks(): Promise<string[]> {
    return Object.keys(await interfaces(site)).filter((name) => /^ts[-hmpc]/.test(name));
  }
});
