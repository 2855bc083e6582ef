import assert from "node:assert/strict";
import { onEachEngine } from "./each-engine.ts";
import { interfaces } from "./interfaces.ts";
import { pings } from "./packets.ts";
import { subnets } from "./site.ts";
import { mustBe, onHost } from "./snapshot.ts";

onEachEngine("options", (site) => {
  let refusals = 0;

  afterEach(() => site.clear());

  it("refuses an option it does not know, with the list of those it does", async () => {
    const said = await refusal("-o", "colour=blue");
    assert.match(said, /unknown option colour/);
    for (const known of ["backend", "com.docker.network.bridge.name", "com.docker.network.driver.mtu"])
      assert.ok(said.includes(known), `${known} in: ${said}`);
    assert.equal(said.split("\n").length, 1);
  });

  it("lets an option of the engine's pass that it has no use for, and says so in its log", async () => {
    const option = "com.docker.network.bridge.from_the_future";
    await site.network("blue", "-o", `${option}=1`);
    const one = await site.run("one", "blue");
    assert.equal(await pings(one, site.neighbourAddress.v4), true);
    const warned = (await site.host.tsnetLog()).split("\n").filter((line) => line.includes(option));
    assert.ok(warned.some((line) => (JSON.parse(line) as { level: number }).level === 40));
  });

  it("names the option, the value and what it may be", async () => {
    const bridge = "com.docker.network.bridge";
    const wrong: [string, string, RegExp][] = [
      [`${bridge}.gateway_mode_ipv4`, "bridged", /must be nat, nat-unprotected, routed or isolated/],
      [`${bridge}.name`, "a-name-far-too-long", /must be a link name of 1 to 15 characters/],
      [`${bridge}.host_binding_ipv4`, "fd00::1", /must be an IPv4 address/],
      ["com.docker.network.host_ipv6", "10.0.0.1", /must be an IPv6 address/],
      ["com.docker.network.driver.mtu", "jumbo", /must be a number of bytes/],
      ["com.docker.network.driver.mtu", "67", /from 68 to 65535/],
      ["com.docker.network.container_iface_prefix", "eth/", /must be a link name/],
    ];
    const checks = wrong.map(async ([option, value, allowed]) => {
      const said = await refusal("-o", `${option}=${value}`);
      assert.ok(said.includes(option), said);
      assert.match(said, allowed);
    });
    await Promise.all(checks);
    const small = ["-o", "com.docker.network.driver.mtu=1279", "--ipv6", "--subnet", subnets().v6];
    assert.match(await refusal(...small), /driver\.mtu is 1279, but IPv6 needs at least 1280 bytes/);
    assert.match(
      await refusal("-o", "backend=carrier-pigeon"),
      /unknown backend "carrier-pigeon"; choose bridge/,
    );
  });

  // Older engines give every network an IPv4 subnet.
  if (site.line === "28.5")
    it("refuses a network that would have no addresses", async () => {
      assert.match(
        await refusal("--ipv4=false"),
        /needs IPv4 or IPv6; add --ipv6, or leave out --ipv4=false/,
      );
    });

  it("takes for not given what the engine's own driver takes for that", async () => {
    const nothing = ["bridge.name=", "driver.mtu=0", "container_iface_prefix="];
    await site.network("blue", ...nothing.flatMap((option) => ["-o", `com.docker.network.${option}`]));
    const one = await site.run("one", "blue");
    assert.equal(await pings(one, site.neighbourAddress.v4), true);
    assert.ok("eth0" in (await interfaces(one)));
  });

  it("refuses a subnet that the host has a route to, and names the route", async () => {
    await site.exec(["ip", "route", "add", "10.19.0.0/16", "via", site.neighbourAddress.v4]);
    site.later(() => site.exec(["ip", "route", "del", "10.19.0.0/16"]));
    assert.match(
      await refusal("--subnet", "10.111.0.0/25"),
      /subnet 10\.111\.0\.0\/25 overlaps the host's route to 10\.111\.0\.0\/24; choose another with --subnet/,
    );
    assert.match(await refusal("--subnet", "10.19.7.0/24"), /overlaps the host's route to 10\.19\.0\.0\/16/);
    assert.match(
      await refusal("--ipv6", "--subnet", subnets().v4, "--subnet", "fd00:111::/96"),
      /subnet fd00:111::\/96 overlaps the host's route to fd00:111::\/64/,
    );
    // The default route is no obstacle.
    await site.network("blue", "--subnet", subnets().v4);
  });

  it("refuses a bridge name that something else has", async () => {
    await site.network("red", "-o", "com.docker.network.bridge.name=red-br");
    const named = (name: string) => refusal("-o", `com.docker.network.bridge.name=${name}`);
    assert.match(await named("red-br"), /bridge red-br belongs to network [0-9a-f]{64}; choose another name/);
    for (const bridge of ["docker0", "engine-br"]) {
      if (bridge !== "docker0")
        await site.docker("network", "create", "-o", `com.docker.network.bridge.name=${bridge}`, bridge);
      assert.match(await named(bridge), new RegExp(`bridge ${bridge} belongs to a network of the engine's`));
    }
    assert.match(await named("eth0"), /link eth0 exists and is a veth, not a bridge/);
    assert.equal("red-br" in (await interfaces(site)), true);
  });

  it("refuses gateway mode isolated on a network that is not internal", async () => {
    const option = "com.docker.network.bridge.gateway_mode_ipv4";
    const said = await refusal("-o", `${option}=isolated`);
    assert.ok(said.includes(`${option}=isolated needs --internal`), said);
  });

  /** What `docker network create` says, after a look whether it left anything. */
  async function refusal(...args: string[]): Promise<string> {
    refusals += 1;
    const name = `refused-${String(refusals)}`;
    const said = await site.refused("network", "create", "-d", "tsnet", ...args, name);
    const names = (await site.host.api.listNetworks()).map(({ Name }) => Name);
    assert.equal(names.includes(name), false);
    return said;
  }

  it("leaves nothing on the host of a network that was refused", async () => {
    const before = await onHost(site);
    await Promise.all([
      refusal("-o", "colour=blue"),
      refusal("-o", "com.docker.network.driver.mtu=jumbo"),
      refusal("--subnet", "10.111.0.0/24"),
      refusal("-o", "com.docker.network.bridge.name=eth0"),
    ]);
    await mustBe(before, site);
  });
});
