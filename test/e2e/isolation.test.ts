import assert from "node:assert/strict";
import { until } from "../support/until.ts";
import { Answerers, type Question, ask } from "./answers.ts";
import { withBridgeNetfilter } from "./bridge-netfilter.ts";
import { onEachEngine } from "./each-engine.ts";
import { EVERYTHING, type Target, countArrivals, pings, send } from "./packets.ts";
import { type Subnets, subnets } from "./site.ts";

const PROGRAMS = ["iptables", "ip6tables"] as const;
/** Host ports that containers publish. */
const PUBLISHED = [8080, 8081] as const;
/** Where a program of the host's own answers. */
const HOSTS_OWN = 5000;
const NOBODY = ["nothing", "ECONNREFUSED"];

onEachEngine("isolation", (site) => {
  /** Networks with who is on them. The last two are the engine's own, one with a bridge that the user named. */
  const members: Record<string, readonly string[]> = {
    alpha: ["a1", "a2"],
    beta: ["b1"],
    gamma: ["g1"],
    delta: ["d1"],
  };
  const targets: Record<string, Target> = {};
  const ranges: Record<string, Subnets> = {};
  const answerers = new Answerers();

  before(async () => {
    await Promise.all(Object.keys(members).map((name) => network(name)));
    await Promise.all(
      Object.entries(members).flatMap(([net, names]) => names.map((name) => container(name, net))),
    );
  });

  after(() => answerers.stop());

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

  it("keeps published ports from the engine's internal networks, also those that the daemon serves", async () => {
    // What is published of the one is translated; of the other, IPv4 is, and the daemon serves IPv6.
    const unprotected = "com.docker.network.bridge.gateway_mode_ipv4=nat-unprotected";
    await site.network("four", "--subnet", subnets().v4, "-o", unprotected);
    for (const [index, net] of ["alpha", "four"].entries()) {
      const port = `${String(PUBLISHED[index])}:80`;
      await site.run(`web-${net}`, net, "-p", port, "-p", `${port}/udp`);
      await answerers.start(site.host, `web-${net}`, [80], `web-${net}`);
    }
    await answerers.start(site.host, "host", [HOSTS_OWN]);
    await network("inner", "--internal");
    await site.run("i1", "inner");
    await check();
    // The jump comes back ahead of what the engine has against it, if that was first.
    const jump = ["FORWARD", "-j", "TSNET-FORWARD"];
    await site.host.stopTsnet();
    for (const program of PROGRAMS) await site.exec([program, "-w", "-D", ...jump]);
    await site.host.startTsnet();
    for (const program of PROGRAMS)
      await until("the jump to be back", async () => {
        const { code } = await site.exec([program, "-C", ...jump], { allowFailure: true });
        return code === 0;
      });
    await check();

    async function check(): Promise<void> {
      const names = async (from: string, questions: readonly Question[]) =>
        (await ask(site.container(from), questions)).map((answer) => answer.split(" ")[0] ?? "");
      const closed = questions("inner").map((question) => ({ ...question, unexpected: true }));
      const { ip, ip6 } = ranges["inner"] ?? assert.fail();
      const own = [ip(1), ip6(1)].map((address) => ({ address, port: HOSTS_OWN }));
      const [inside, host, beside] = await Promise.all([
        names("i1", closed),
        names("i1", own),
        names("g1", questions("gamma")),
      ]);
      assert.deepEqual(
        inside.filter((answer) => !NOBODY.includes(answer)),
        [],
      );
      assert.deepEqual(host, ["host", "host"]);
      assert.deepEqual(new Set(beside), new Set(["web-alpha", "web-four"]));
    }
  });

  // Newer engines close their bridges themselves.
  if (site.line === "26.1")
    it("keeps the engine's bridges apart as they were when tsnet starts and no engine answers", async () => {
      const rules = async () => {
        const saved = await Promise.all(PROGRAMS.map((program) => site.exec([`${program}-save`])));
        return saved.map(({ stdout }) => stdout.match(/^-A TSNET-(TO|FROM|INVITED) .*-j DROP$/gm));
      };
      const apart = await rules();
      for (const rules of apart) {
        assert.match(String(rules), /TSNET-FROM -i user-br -m conntrack ! --ctstate DNAT -j DROP/);
        assert.match(String(rules), /TSNET-INVITED -i br-\S+ -j DROP/);
      }
      await site.host.stopTsnet();
      await site.host.killEngine();
      const before = (await site.host.tsnetLog()).length;
      await site.host.startTsnet();
      assert.deepEqual(await rules(), apart);
      await until("tsnet has looked at everything", async () =>
        (await site.host.tsnetLog()).includes("host is as recorded", before),
      );
      assert.deepEqual(await rules(), apart);
      await site.host.startEngine();
    });

  async function policyOf(program: string): Promise<string | undefined> {
    return /^-P FORWARD (\S+)/.exec((await site.exec([program, "-S", "FORWARD"])).stdout)?.[1];
  }

  async function network(name: string, ...options: string[]): Promise<void> {
    const { v4, v6 } = (ranges[name] = subnets());
    const args = ["--ipv6", "--subnet", v4, "--subnet", v6, ...options];
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

  /** Every published port at a network's gateway. */
  function questions(net: string): Question[] {
    const { ip, ip6 } = ranges[net] ?? assert.fail();
    return [ip(1), ip6(1)].flatMap((address) =>
      PUBLISHED.flatMap((port): Question[] => [
        { address, port },
        { address, port, protocol: "udp" },
      ]),
    );
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
