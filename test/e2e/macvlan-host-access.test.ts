import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { install } from "../lab/debian.ts";
import { interfaces } from "./interfaces.ts";
import { type Neighbour, PARENT, lanAddress, reach, sorted } from "./lan.ts";
import { onLan } from "./on-lan.ts";
import { pings } from "./packets.ts";
import { type Place, subnets } from "./site.ts";
import { mustBe, onHost } from "./snapshot.ts";
import { until } from "./until.ts";

/** What is taken away by hand is back within a second (test/integration); to look takes a while from here. */
const REPAIR_MS = 2000;

onLan("macvlan host_access", (lan) => {
  const { site, peer } = lan;

  before(() => install("tcpdump"));
  afterEach(() => lan.clear());

  it("lets host and containers reach each other, for the LAN as before", async () => {
    const id = await lan.network("blue", ["host_access=on"]);
    const [one, two] = await Promise.all([lan.run("one", "blue", 100), lan.run("two", "blue", 101)]);
    const { here, there } = lan;
    const { client, outside } = lan.lan;
    const everybody = ["one", "two", "here", "there", "client"];
    const expected = {
      one: [...but(everybody, "one"), "outside"],
      two: [...but(everybody, "two"), "outside"],
      here: but(everybody, "here"),
      there: but(everybody, "there"),
      client: [...but(everybody, "client"), "outside"],
    };
    const places = { one, two, here, there, client, outside };
    assert.deepEqual(sorted(await reach(places, expected)), sorted(expected));
    const { stdout: routes } = await site.exec(["ip", "route", "show", "dev", `tsm${id.slice(0, 12)}`]);
    assert.deepEqual(
      routes
        .split("\n")
        .map((line) => line.split(" ")[0])
        .filter(Boolean),
      [one.v4, two.v4],
    );
  });

  it("shows the LAN one MAC for each of the host's addresses, the parent's", async () => {
    await lan.network("blue", ["host_access=on"]);
    const one = await lan.run("one", "blue", 100);
    const { address } = (await interfaces(site))[PARENT] ?? assert.fail();
    const { client } = lan.lan;
    const answers = await listen(client, "arp[6:2] = 2 or icmp6[0] = 136", site.host.dir);
    // Everybody speaks, so that whoever would answer for the host has a reason to.
    for (let round = 0; round < 3; round += 1) {
      await client.exec(["ip", "neigh", "flush", "dev", "eth0"]);
      for (const [from, to] of [
        [one, lan.here],
        [lan.here, one],
        [client, lan.here],
      ] as const)
        for (const family of ["v4", "v6"] as const) assert.equal(await pings(from, to[family]), true);
    }
    const lines = (await answers()).split("\n");
    for (const host of [lan.here.v4, lan.here.v6]) {
      const senders = lines.flatMap((line) =>
        line.includes(`Reply ${host} is-at`) || line.includes(`tgt is ${host},`)
          ? [/ ([0-9a-f:]{17}) > /.exec(line)?.[1]]
          : [],
      );
      assert.ok(senders.length > 0, `no answer for ${host}`);
      assert.deepEqual([...new Set(senders)], [address], host);
    }
  });

  it("is for the containers of its own network only, also where another one has the same parent", async () => {
    await Promise.all([lan.network("blue", ["host_access=on"]), lan.network("blue", [], { on: peer })]);
    const [one, three] = await Promise.all([
      lan.run("one", "blue", 100),
      lan.run("three", "blue", 102, { on: peer }),
    ]);
    await site.network("red", "-o", "backend=macvlan", "-o", `parent=${PARENT}`);
    const two = await site.run("two", "red");
    // The engine's IPAM gives no second network the LAN's subnet.
    const { v4, v6 } = lanAddress(101);
    await two.exec(["ip", "address", "add", `${v4}/24`, "dev", "eth0"]);
    await two.exec(["sh", "-c", "echo 0 >/proc/sys/net/ipv6/conf/eth0/disable_ipv6"]);
    await two.exec(["ip", "address", "add", `${v6}/64`, "dev", "eth0", "nodad"]);
    const places = { one, two: { ...two, v4, v6 }, three, here: lan.here };
    const expected = {
      one: ["two", "three", "here"],
      two: ["one", "three"],
      three: ["one", "two", "here"],
      here: ["one", "three"],
    };
    assert.deepEqual(sorted(await reach(places, expected)), sorted(expected));
  });

  it("is no way between its containers and those of the host's other networks", async () => {
    await lan.network("blue", ["host_access=on"]);
    const one = await lan.run("one", "blue", 100);
    const beside = async (net: string, create: (...args: string[]) => Promise<unknown>) => {
      const { v4, v6 } = subnets();
      await create("--ipv6", "--subnet", v4, "--subnet", v6);
      const place = await site.run(`on-${net}`, net);
      await one.exec(["ip", "route", "add", v4, "via", lan.here.v4]);
      await one.exec(["ip", "route", "add", v6, "via", lan.here.v6]);
      return { ...place, ...(await site.attachment(`on-${net}`, net)) };
    };
    const green = await beside("green", (...args) => site.network("green", ...args));
    const grey = await beside("grey", (...args) => site.docker("network", "create", ...args, "grey"));
    const places = { one, green, grey, here: lan.here };
    const expected = {
      one: ["here"],
      green: ["here"],
      grey: ["here"],
      here: ["one", "green", "grey"],
    };
    assert.deepEqual(sorted(await reach(places, expected)), sorted(expected));
  });

  it("has the address reserved for the host where one is", async () => {
    const reserved = lanAddress(60);
    const aux = [`host=${reserved.v4}`, `host6=${reserved.v6}`].flatMap((one) => ["--aux-address", one]);
    await lan.network("blue", ["host_access=on"], { args: aux });
    const one = await lan.run("one", "blue", 100);
    for (const family of ["v4", "v6"] as const) {
      const { stdout } = await site.exec(["ip", "route", "get", one[family]]);
      assert.match(stdout, new RegExp(`src ${reserved[family]} `));
      assert.equal(await pings(site, one[family]), true);
      assert.equal(await pings(one, reserved[family]), true);
      assert.equal(await pings(one, lan.here[family]), true);
    }
    assert.equal(await pings(lan.lan.client, reserved.v4), true);
  });

  it("comes with the first container and goes with the last", async () => {
    const id = await lan.network("blue", ["host_access=on"]);
    const before = await onHost(site);
    const shim = `tsm${id.slice(0, 12)}`;
    assert.equal(shim in (await interfaces(site)), false);
    const [one, two] = await Promise.all([lan.run("one", "blue", 100), lan.run("two", "blue", 101)]);
    assert.equal(shim in (await interfaces(site)), true);
    await site.docker("rm", "-f", "one");
    assert.equal(await pings(site, two.v4), true);
    assert.equal(await pings(site, one.v4, { expected: false }), false);
    await site.docker("rm", "-f", "two");
    await mustBe(before, site);
  });

  it("is repaired within a second, whatever is taken from it", async () => {
    const id = await lan.network("blue", ["host_access=on"]);
    const [one] = await Promise.all([lan.run("one", "blue", 100), lan.run("two", "blue", 101)]);
    const shim = `tsm${id.slice(0, 12)}`;
    const whole = await access();
    assert.match(whole, /PERMANENT/);
    const { v4, v6 } = lanAddress(100);
    const here = lanAddress(11);
    for (const damage of [
      `link delete ${shim}`,
      `link set ${shim} down`,
      `route delete ${v4}/32 dev ${shim}`,
      `-6 route delete ${v6}/128 dev ${shim}`,
      `neigh delete ${v4} dev ${shim}`,
      `-6 neigh delete ${v6} dev ${shim}`,
      `address delete ${here.v6}/128 dev ${shim}`,
      `address add 10.77.0.99/32 dev ${shim}`,
    ]) {
      await site.exec(["ip", ...damage.split(" ")]);
      await until(`repair of: ip ${damage}`, async () => (await access()) === whole, REPAIR_MS);
    }
    for (const family of ["v4", "v6"] as const) {
      assert.equal(await pings(site, one[family]), true);
      assert.equal(await pings(one, here[family]), true);
    }

    /** Everything it consists of. */
    async function access(): Promise<string> {
      const commands = ["address show", "-4 route show", "-6 route show", "neigh show nud permanent"];
      const script = commands.map((command) => `ip ${command} dev ${shim}`).join("; ");
      const { stdout } = await site.exec(["sh", "-c", script], { allowFailure: true });
      return stdout
        .replace(/^\d+: |@\S+/gm, "")
        .split("\n")
        .sort()
        .join("\n");
    }
  });

  it("follows the host's address when that changes", async () => {
    await lan.network("blue", ["host_access=on"]);
    const one = await lan.run("one", "blue", 100);
    const change = async (from: Neighbour, to: Pick<Neighbour, "v4" | "v6">) => {
      await site.exec([
        "sh",
        "-ec",
        [
          `ip address delete ${from.v4}/24 dev ${PARENT}`,
          `ip address delete ${from.v6}/64 dev ${PARENT}`,
          `ip address add ${to.v4}/24 dev ${PARENT}`,
          `ip address add ${to.v6}/64 dev ${PARENT} nodad`,
        ].join("; "),
      ]);
    };
    const other = { ...lan.here, ...lanAddress(61) };
    await change(lan.here, other);
    try {
      for (const family of ["v4", "v6"] as const)
        await until(
          "both ways by the new address",
          async () => (await pings(one, other[family])) && (await pings(site, one[family])),
        );
      assert.equal(await pings(one, lan.here.v4, { expected: false }), false);
    } finally {
      await change(other, lan.here);
    }
    await until("the old address to be back", () => pings(one, lan.here.v6));
  });
});

function but(names: readonly string[], name: string): string[] {
  return names.filter((other) => other !== name);
}

/**
 * Writes down the packets of a kind that a place hears, until it is asked for them.
 *
 * @param dir where it can write
 */
async function listen(place: Place, filter: string, dir: string): Promise<() => Promise<string>> {
  const [file, pidFile] = [join(dir, "heard"), join(dir, "listener.pid")];
  const command = `tcpdump -lnne -i eth0 '${filter}'`;
  await place.exec(["sh", "-c", `${command} >${file} 2>&1 & echo $! >${pidFile}`]);
  const heard = () => readFile(file, "utf8");
  await until("tcpdump to listen", async () => (await heard()).includes("listening on"));
  return async () => {
    await place.exec(["sh", "-c", `kill -INT $(cat ${pidFile})`]);
    await until("tcpdump to end", async () => (await heard()).includes("packets captured"));
    return await heard();
  };
}
