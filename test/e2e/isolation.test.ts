import assert from "node:assert/strict";
import { withBridgeNetfilter } from "./bridge-netfilter.ts";
import { onEachEngine } from "./each-engine.ts";
import { EVERYTHING, type Target, countArrivals, pings, send } from "./packets.ts";
import { subnets } from "./site.ts";
import { until } from "../support/until.ts";

const PROGRAMS = ["iptables", "ip6tables"] as const;

onEachEngine("isolation", (site) => {
  /** Networks with who is on them. The last two are the engine's own, one with a bridge that the user named. */
  const members: Record<string, readonly string[]> = {
    alpha: ["a1", "a2"],
    beta: ["b1"],
    gamma: ["g1"],
    delta: ["d1"],
  };
  const targets: Record<string, Target> = {};

  before(async () => {
    await Promise.all(Object.keys(members).map(network));
    await Promise.all(
      Object.entries(members).flatMap(([net, names]) => names.map((name) => container(name, net))),
    );
  });

  it("lets a packet pass between containers of one network and no others", async () => {
    for (const [net, names] of Object.entries(members)) {
      for (const name of names) {
        const others = Object.keys(targets).filter((other) => !engineOnly(net, other) && other !== name);
        const expected = others.map((other) => [other, names.includes(other) ? EVERYTHING : []]);
        const got = await send(site.container(name), pick(others));
        assert.deepEqual(got, Object.fromEntries(expected), `from ${name}`);
      }
    }
    // All of them can be reached, from where it is allowed.
    const all = Object.fromEntries(Object.keys(targets).map((name) => [name, EVERYTHING]));
    assert.deepEqual(await send(site, targets), all, "from the host");
  });

  it("lets containers of one network talk where the host's policy drops and bridges are filtered", async () => {
    const policies = await Promise.all(PROGRAMS.map((program) => policyOf(program)));
    for (const program of PROGRAMS) await site.exec([program, "-P", "FORWARD", "DROP"]);
    try {
      await withBridgeNetfilter(site, "1", async () => {
        const got = await send(site.container("a1"), pick(["a2", "b1"]));
        assert.deepEqual(got, { a2: [...EVERYTHING], b1: [] });
        for (const address of Object.values(site.neighbourAddress))
          assert.equal(await pings(site.container("a1"), address), true, address);
      });
    } finally {
      for (const [index, program] of PROGRAMS.entries())
        await site.exec([program, "-P", "FORWARD", policies[index] ?? ""]);
    }
  });

  it("drops what a rule in DOCKER-USER drops", async () => {
    const [source = ""] = targets["a1"]?.addresses ?? [];
    const { v4 } = site.neighbourAddress;
    const rule = ["DOCKER-USER", "-s", source, "-j", "DROP"];
    assert.equal(await pings(site.container("a1"), v4), true);
    await site.exec(["iptables", "-I", ...rule]);
    try {
      assert.equal(await pings(site.container("a1"), v4, { expected: false }), false);
      assert.equal(await pings(site.container("a2"), v4), true);
    } finally {
      await site.exec(["iptables", "-D", ...rule]);
    }
  });

  it("keeps what the engine's networks have among themselves as it is", async () => {
    await container("g2", "gamma");
    assert.deepEqual(await send(site.container("g1"), pick(["g2"])), { g2: [...EVERYTHING] });
    assert.equal(await pings(site.container("g1"), site.neighbourAddress.v4), true);
  });

  // Newer engines close their bridges themselves.
  if (site.line === "26.1")
    it("keeps a bridge that the user named apart when tsnet starts and no engine answers", async () => {
      const closed = async () => {
        const saved = await Promise.all(PROGRAMS.map((program) => site.exec([`${program}-save`])));
        return saved.map(({ stdout }) => /^-A TSNET-TO -o user-br .* -j DROP$/m.test(stdout));
      };
      await site.host.stopTsnet();
      await site.host.killEngine();
      const before = (await site.host.tsnetLog()).length;
      await site.host.startTsnet();
      assert.deepEqual(await closed(), [true, true]);
      await until("tsnet has looked at everything", async () =>
        (await site.host.tsnetLog()).includes("host is as recorded", before),
      );
      assert.deepEqual(await closed(), [true, true]);
      await site.host.startEngine();
    });

  async function policyOf(program: string): Promise<string | undefined> {
    return /^-P FORWARD (\S+)/.exec((await site.exec([program, "-S", "FORWARD"])).stdout)?.[1];
  }

  async function network(name: string): Promise<void> {
    const { v4, v6 } = subnets();
    const args = ["--ipv6", "--subnet", v4, "--subnet", v6];
    if (name === "alpha" || name === "beta") await site.network(name, ...args);
    else {
      const named = name === "delta" ? ["-o", "com.docker.network.bridge.name=user-br"] : [];
      await site.docker("network", "create", ...args, ...named, name);
    }
  }

  async function container(name: string, net: string): Promise<void> {
    const place = await site.run(name, net);
    await countArrivals(place);
    const { v4, v6 } = await site.attachment(name, net);
    targets[name] = { exec: place.exec, addresses: [v4, v6] };
  }

  function pick(names: readonly string[]): Record<string, Target> {
    return Object.fromEntries(Object.entries(targets).filter(([name]) => names.includes(name)));
  }

  /** Between two networks of the engine's: not tsnet's to say. */
  function engineOnly(net: string, other: string): boolean {
    const own = ["gamma", "delta"];
    const others = Object.keys(members).find((name) => members[name]?.includes(other)) ?? "";
    return own.includes(net) && own.includes(others) && net !== others;
  }
});
