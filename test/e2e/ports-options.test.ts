import assert from "node:assert/strict";
import { TSNET_MAIN } from "../lab/host.ts";
import { Answerers, ask } from "./answers.ts";
import { withBridgeNetfilter } from "./bridge-netfilter.ts";
import { onEachEngine } from "./each-engine.ts";
import { onNewestEngine } from "./newest-engine.ts";
import { option, publish, published, publishedBy } from "./published.ts";
import { type Subnets, subnets } from "./site.ts";
import { until } from "./until.ts";

onEachEngine("published ports", (site) => {
  const answerers = new Answerers();

  afterEach(async () => {
    await answerers.stop();
    await site.clear();
  });

  it("listen where -o publish says", async () => {
    const { v4, v6 } = site.address;
    // What -o publish says, and which of these addresses then lead to the container.
    const addresses = [v4, v6, "127.0.0.1", "::1"];
    const cases: [string, string[], string[]][] = [
      ["publish=loopback", ["127.0.0.1", "::1"], ["127.0.0.1:8080>80/tcp", "[::1]:8080>80/tcp"]],
      ["publish=all", addresses, ["0.0.0.0:8081>80/tcp", "[::]:8081>80/tcp"]],
      [`publish=${v4}`, [v4], [`${v4}:8082>80/tcp`]],
      [`publish=${v6}`, [v6], [`[${v6}]:8083>80/tcp`]],
      ["com.docker.network.bridge.host_binding_ipv4=127.0.0.1", ["127.0.0.1"], ["127.0.0.1:8084>80/tcp"]],
    ];
    for (const [index, [how, open, ports]] of cases.entries()) {
      const [name, port] = [`c${String(index)}`, 8080 + index];
      await network(name, subnets(), "-o", how);
      await site.run(name, name, ...publish(`${port}:80`));
      assert.deepEqual(await publishedBy(site, name), ports.sort(), how);
      await answerers.start(site.host, name, [80], name);
      const questions = addresses.map((address) => ({ address, port, unexpected: !open.includes(address) }));
      const answers = await ask(site, questions);
      assert.deepEqual(
        addresses.filter((_, at) => answers[at]?.startsWith(name)),
        open,
        how,
      );
      const near = await ask(site.neighbour, questions.slice(0, 2));
      assert.deepEqual(
        [v4, v6].filter((_, at) => near[at]?.startsWith(name)),
        open.filter((at) => addresses.indexOf(at) < 2),
        how,
      );
    }
    // What -p says counts more.
    await site.run("more", "c0", ...publish("0.0.0.0:8090:80"));
    await answerers.start(site.host, "more", [80], "more");
    assert.deepEqual(await byHost(8090), ["more", "ECONNREFUSED"]);
  });

  it("are reached whatever the network's containers look like to the outside", async () => {
    const { v4 } = site.address;
    const cases = [option("enable_ip_masquerade=false"), ["-o", `com.docker.network.host_ipv4=${v4}`]];
    for (const [index, options] of cases.entries()) {
      const [name, port] = [`c${String(index)}`, 8080 + index];
      const net = subnets();
      await network(name, net, ...options);
      const place = await site.run(name, name, ...publish(`${port}:80`));
      await answerers.start(site.host, name, [80], name);
      assert.deepEqual(await byHost(port), [name, name], options[1]);
      const itself = await ask(
        place,
        Object.values(site.address).map((address) => ({ address, port })),
      );
      assert.deepEqual(itself, [`${name} ${net.ip(1)}`, `${name} ${net.ip6(1)}`], options[1]);
    }
  });

  for (const [value, icc] of [
    ["0", true],
    ["1", true],
    ["0", false],
    ["1", false],
  ] as const)
    it(`are reached by ${icc ? "the container itself" : "containers that may not reach each other"}, br_netfilter being ${value === "0" ? "off" : "on"}`, async () => {
      const { v4, v6 } = site.address;
      const net = subnets();
      await network("apart", net, ...option(`enable_icc=${String(icc)}`));
      const own = [`${v4}:8081:80`, `[${v6}]:8081:80`].flatMap(publish);
      const ports = ["8080:80", "8080:80/udp", "127.0.0.1:8082:80"].flatMap(publish);
      const web = await site.run("web", "apart", ...own, ...ports);
      const peer = await site.run("peer", "apart");
      await answerers.start(site.host, "web", [80], "web");
      const seen = (address: string) => `web ${address.includes(":") ? net.ip6(1) : net.ip(1)}`;
      // The host's own filter may let in nothing that it does not know.
      const closed = (icc ? [] : ["iptables", "ip6tables"]).flatMap((program) => [
        [program, "-A", "INPUT", "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT"],
        [program, "-A", "INPUT", "!", "-p", program === "iptables" ? "icmp" : "ipv6-icmp", "-j", "DROP"],
      ]);
      for (const command of closed) await site.exec(command);
      try {
        await withBridgeNetfilter(site, value, async () => {
          for (const place of [web, peer]) {
            const questions = [v4, v6, net.ip(1), net.ip6(1)].flatMap((address) => [
              { address, port: 8080 },
              { address, port: 8080, protocol: "udp" as const },
            ]);
            assert.deepEqual(
              await ask(place, questions),
              questions.map(({ address }) => seen(address)),
            );
            const specific = [v4, v6].map((address) => ({ address, port: 8081 }));
            assert.deepEqual(await ask(place, specific), [seen(v4), seen(v6)]);
            const shut = [v4, v6].map((address) => ({ address, port: 8082, unexpected: true }));
            const nobody = icc ? "ECONNREFUSED" : "nothing";
            assert.deepEqual(await ask(place, shut), [nobody, nobody]);
          }
          const direct = [net.ip(2), net.ip6(2)].map((address) => ({ address, port: 80, unexpected: !icc }));
          const answers = icc ? [`web ${net.ip(3)}`, `web ${net.ip6(3)}`] : ["nothing", "nothing"];
          assert.deepEqual(await ask(peer, direct), answers);
          assert.deepEqual(await byHost(8080), ["web", "web"]);
        });
      } finally {
        for (const [program = "", , ...rule] of closed.toReversed())
          await site.exec([program, "-D", ...rule]);
      }
    });

  async function network(name: string, { v4, v6 }: Subnets, ...args: string[]): Promise<void> {
    await site.network(name, "--ipv6", "--subnet", v4, "--subnet", v6, ...args);
  }

  /** Who answers the neighbour at the host's addresses. */
  async function byHost(port: number): Promise<(string | undefined)[]> {
    const answers = await ask(
      site.neighbour,
      Object.values(site.address).map((address) => ({ address, port })),
    );
    return answers.map((answer) => answer.split(" ")[0]);
  }
});

onNewestEngine("published ports of a daemon with --publish", (site) => {
  it("listen where it says, unless the network or the user says something else", async () => {
    await site.host.stopTsnet();
    const daemon = `exec "$0" "$@" >/dev/null 2>&1 </dev/null & echo $!`;
    const settings = ["--state-dir", site.host.stateDir, "--docker-socket", "/run/docker.sock"];
    const argv = [process.execPath, TSNET_MAIN, "daemon", ...settings, "--publish", "loopback"];
    const pid = (await site.exec(["sh", "-c", daemon, ...argv])).stdout.trim();
    try {
      await until("tsnet to answer", () => published(site).catch(() => undefined));
      const { v4, v6 } = subnets();
      await site.network("blue", "--ipv6", "--subnet", v4, "--subnet", v6);
      await site.network("open", "--subnet", subnets().v4, "-o", "publish=all");
      await site.run("c1", "blue", ...publish("8080:80"), ...publish("0.0.0.0:8081:80"));
      await site.run("c2", "open", ...publish("8082:80"));
      const own = ["0.0.0.0:8081>80/tcp", "127.0.0.1:8080>80/tcp", "[::1]:8080>80/tcp"];
      assert.deepEqual(await publishedBy(site, "c1"), own);
      assert.deepEqual(await publishedBy(site, "c2"), ["0.0.0.0:8082>80/tcp", "[::]:8082>80/tcp"]);
      await site.clear();
    } finally {
      await site.exec(["sh", "-c", 'kill "$0"; while [ -e "/proc/$0" ]; do sleep 0.01; done', pid]);
      await site.host.startTsnet();
    }
  });
});
