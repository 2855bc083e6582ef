import assert from "node:assert/strict";
import { onEachEngine } from "./each-engine.ts";
import { addresses, defaultRoutes, hostEndOf, interfaces, link } from "./interfaces.ts";
import { pings, seenAs } from "./packets.ts";
import { subnets } from "./site.ts";
import { until } from "./until.ts";

onEachEngine("membership", (site) => {
  afterEach(() => site.clear());

  it("lets a container on two networks of tsnet's reach the peers of both", async () => {
    const [red, blue] = [subnets(), subnets()];
    await Promise.all([dualStack("red", red), dualStack("blue", blue)]);
    await Promise.all([site.run("one", "red"), site.run("two", "blue")]);
    await site.docker("create", "--name", "both", "--network", "red", "tsnet/box");
    await site.docker("network", "connect", "blue", "both");
    await site.docker("start", "both");
    const both = site.container("both");
    assert.deepEqual(Object.keys(await interfaces(both)).sort(), ["eth0", "eth1", "lo"]);
    for (const peer of await peers([
      ["one", "red"],
      ["two", "blue"],
    ]))
      assert.equal(await pings(both, peer), true, peer);
    for (const address of Object.values(site.neighbourAddress))
      assert.equal(await pings(both, address), true, address);
    // Being on both does not join them.
    const { v4 } = await site.attachment("two", "blue");
    assert.equal(await pings(site.container("one"), v4, { expected: false }), false);
    assert.equal((await defaultRoutes(both)).length, 1);
  });

  it("lets a container on a network of tsnet's and one of the engine's reach the peers of both", async () => {
    await Promise.all([dualStack("red", subnets()), dualStack("own", subnets(), "bridge")]);
    await Promise.all([site.run("one", "red"), site.run("two", "own"), site.run("both", "red")]);
    await site.docker("network", "connect", "own", "both");
    const both = site.container("both");
    for (const peer of await peers([
      ["one", "red"],
      ["two", "own"],
    ]))
      assert.equal(await pings(both, peer), true, peer);
    assert.equal(await seenAs(both, site.neighbourAddress.v4), site.address.v4);
    await site.docker("network", "disconnect", "own", "both");
    assert.equal(await seenAs(both, site.neighbourAddress.v4), site.address.v4);
    assert.deepEqual(Object.keys(await interfaces(both)).sort(), ["eth0", "lo"]);
  });

  it("connects a running container, and disconnects it", async () => {
    const [red, blue] = [subnets(), subnets()];
    await Promise.all([dualStack("red", red), dualStack("blue", blue)]);
    await Promise.all([site.run("one", "red"), site.run("two", "blue")]);
    const one = site.container("one");
    const [two4 = "", two6 = ""] = await peers([["two", "blue"]]);
    assert.equal(await pings(one, two4, { expected: false }), false);

    await site.docker("network", "connect", "--ip", blue.ip(50), "--ip6", blue.ip6(50), "blue", "one");
    assert.deepEqual(addresses(await link(one, "eth1")), [`${blue.ip(50)}/24`, `${blue.ip6(50)}/64`]);
    assert.equal(await pings(one, two4), true);
    assert.equal(await pings(one, two6), true);

    await site.docker("network", "disconnect", "red", "one");
    assert.deepEqual(Object.keys(await interfaces(one)).sort(), ["eth1", "lo"]);
    assert.deepEqual(await defaultRoutes(one), [`${blue.ip(1)} eth1`]);
    assert.equal(await pings(one, two4), true);
    assert.equal(await pings(one, site.neighbourAddress.v4), true);

    await site.docker("network", "disconnect", "blue", "one");
    assert.deepEqual(Object.keys(await interfaces(one)), ["lo"]);
    await site.docker("network", "connect", "red", "one");
    assert.equal(await pings(one, red.ip(1)), true);
  });

  it("attaches a container anew when it is restarted, and when the engine restarts one that died", async () => {
    const red = subnets();
    await dualStack("red", red);
    const fixed = ["--ip", red.ip(9), "--ip6", red.ip6(9)];
    await Promise.all([site.run("one", "red", "--restart", "always", ...fixed), site.run("two", "red")]);
    const endpoints = [(await site.attachment("one", "red")).id];
    await site.docker("restart", "one");
    await isBackAnew();
    const died = await pidOf("one");
    await site.exec(["kill", "-9", String(died)]);
    await until("the engine to restart it", async () => ![0, died].includes(await pidOf("one")));
    await isBackAnew();

    async function isBackAnew(): Promise<void> {
      const { id } = await site.attachment("one", "red");
      assert.equal(endpoints.includes(id), false);
      endpoints.push(id);
      for (const address of [red.ip(9), red.ip6(9)])
        assert.equal(await pings(site.container("two"), address), true, address);
      const near = Object.keys(await interfaces(site)).filter((name) => name.startsWith("tsh"));
      const expected = [hostEndOf(id), hostEndOf((await site.attachment("two", "red")).id)];
      assert.deepEqual(near.sort(), expected.sort());
    }
  });

  async function pidOf(container: string): Promise<number> {
    return (await site.host.api.getContainer(container).inspect()).State.Pid;
  }

  async function dualStack(name: string, { v4, v6 }: ReturnType<typeof subnets>, driver = "tsnet") {
    const args = ["--ipv6", "--subnet", v4, "--subnet", v6, name];
    await site.docker("network", "create", "-d", driver, ...args);
  }

  async function peers(members: readonly (readonly [string, string])[]): Promise<string[]> {
    const found = await Promise.all(members.map(([name, network]) => site.attachment(name, network)));
    return found.flatMap(({ v4, v6 }) => [v4, v6]);
  }
});
