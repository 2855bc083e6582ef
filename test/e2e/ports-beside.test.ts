import assert from "node:assert/strict";
import { Answerers, ask } from "./answers.ts";
import { onEachEngine } from "./each-engine.ts";
import { mustBeReached } from "./reached.ts";
import { type Subnets, subnets } from "./site.ts";
import { until } from "./until.ts";

/**
 * What ufw loads (iptables-restore --noflush) when it is enabled and lets ssh in, shortened: policies, its chains
 * behind whatever is there already, and a reject at the end. `icmp6` is what it lets through of IPv6.
 */
function ufw(icmp6: string): string {
  const chains = ["before", "user", "reject"].flatMap((part) =>
    ["input", "forward"].map((where) => `ufw-${part}-${where}`),
  );
  return `*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
${chains.map((chain) => `:${chain} - [0:0]`).join("\n")}
${chains.map((chain) => `-A ${chain.endsWith("input") ? "INPUT" : "FORWARD"} -j ${chain}`).join("\n")}
-A ufw-before-input -i lo -j ACCEPT
-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-input -m conntrack --ctstate INVALID -j DROP
${icmp6}
-A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-user-input -p tcp -m tcp --dport 22 -j ACCEPT
-A ufw-reject-input -j REJECT
-A ufw-reject-forward -j REJECT
COMMIT
`;
}

onEachEngine("published ports beside others", (site) => {
  const answerers = new Answerers();
  let net: Subnets;
  const isReached = () => mustBeReached(site, net, "web");

  beforeEach(async () => {
    net = subnets();
    await site.network("blue", "--ipv6", "--subnet", net.v4, "--subnet", net.v6);
    const ports = ["-p", "8080:80", "-p", "8080:80/udp"];
    await site.run("web", "blue", "--restart", "always", "--ip", net.ip(10), "--ip6", net.ip6(10), ...ports);
    await answerers.start(site.host, "web", [80], "web");
  });

  afterEach(async () => {
    await answerers.stop();
    await site.clear();
  });

  it("are reached again when the engine was restarted", async () => {
    await site.host.stopEngine();
    await site.host.startEngine();
    const runs = async () => (await site.host.api.listContainers()).length === 1;
    await until("the container to run", runs, 30_000);
    await answerers.start(site.host, "web", [80], "web");
    await isReached();
  });

  it("are reached where FORWARD drops by policy", async () => {
    for (const program of ["iptables", "ip6tables"]) {
      const { stdout } = await site.exec([program, "-S", "FORWARD"]);
      const [, policy = "ACCEPT"] = /^-P FORWARD (\S+)/.exec(stdout) ?? [];
      site.later(() => site.exec([program, "-P", "FORWARD", policy]));
      await site.exec([program, "-P", "FORWARD", "DROP"]);
    }
    await isReached();
  });

  it("are reached where ufw closes everything else", async () => {
    const rules = { iptables: ufw(""), ip6tables: ufw("-A ufw-before-input -p ipv6-icmp -j ACCEPT") };
    await answerers.start(site.host, "host", [5000]);
    const service = Object.values(site.address).map((address) => ({ address, port: 5000 }));
    const near = Object.values(site.neighbourAddress);
    assert.deepEqual(
      await ask(site.neighbour, service),
      near.map((seen) => `host ${seen}`),
    );
    for (const [program, input] of Object.entries(rules)) {
      const { stdout: before } = await site.exec([`${program}-save`, "-t", "filter"]);
      site.later(() => site.exec([`${program}-restore`], { input: before }));
      await site.exec([`${program}-restore`, "--noflush"], { input });
    }
    // From the container itself ufw would have to let it in, as with the engine's bridge.
    await site.run("peer", "blue");
    await mustBeReached(site, net, "peer");
    // Both ufw and tsnet keep the rest closed.
    await site.routeFromNeighbour(net);
    const closed = [...service, { address: net.ip(10), port: 80 }, { address: net.ip6(10), port: 80 }].map(
      (question) => ({ ...question, unexpected: true }),
    );
    const answers = await ask(site.neighbour, closed);
    assert.deepEqual(
      answers.filter((answer) => !["ECONNREFUSED", "nothing"].includes(answer)),
      [],
    );
  });
});
