import assert from "node:assert/strict";
import { BOX } from "../lab/image.ts";
import { Answerers, type Question, ask } from "./answers.ts";
import { onEachEngine } from "./each-engine.ts";
import { publishedBy, tsnet } from "./published.ts";
import { subnets } from "./site.ts";

onEachEngine("forms of -p", (site) => {
  const answerers = new Answerers();

  before(async () => {
    const { v4, v6 } = subnets();
    await site.network("blue", "--ipv6", "--subnet", v4, "--subnet", v6);
  });

  afterEach(async () => {
    await answerers.stop();
    await site.removeContainers();
  });

  it("all say what host address and port leads to what container port", async () => {
    const { v4, v6 } = site.address;
    const forms: Record<string, string[]> = {
      "7001:80": everywhere(7001, 80),
      "7002:80/tcp": everywhere(7002, 80),
      "7001:90/udp": everywhere(7001, 90, "udp"),
      "7003:80/sctp": everywhere(7003, 80, "sctp"),
      "7004:80": everywhere(7004, 80),
      "7010-7012:8010-8012": [7010, 7011, 7012].flatMap((port) => everywhere(port, port + 1000)),
      "7010-7011:8010-8011/udp": [7010, 7011].flatMap((port) => everywhere(port, port + 1000, "udp")),
      "0.0.0.0:7020:80": ["0.0.0.0:7020>80/tcp"],
      "[::]:7021:80": ["[::]:7021>80/tcp"],
      [`${v4}:7022:80`]: [`${v4}:7022>80/tcp`],
      [`[${v6}]:7022:90/udp`]: [`[${v6}]:7022>90/udp`],
      "127.0.0.1:7023:80": ["127.0.0.1:7023>80/tcp"],
      "127.0.0.2:7023:80": ["127.0.0.2:7023>80/tcp"],
      "[::1]:7023:80": ["[::1]:7023>80/tcp"],
    };
    const args = Object.keys(forms).flatMap((form) => ["-p", form]);
    await site.run("web", "blue", ...args);
    assert.deepEqual(await publishedBy(site, "web"), Object.values(forms).flat().sort());
    const sctp = await site.exec(["iptables-save", "-t", "nat"]);
    assert.match(sctp.stdout, /-p sctp -m sctp --dport 7003 .*-j DNAT --to-destination [\d.]+:80$/m);

    await answerers.start(site.host, "web", [80, 90, 8010, 8011, 8012], "web");
    const tcp = [7001, 7002, 7004, 7010, 7011, 7012];
    const questions = [v4, v6].flatMap((address) => [
      ...tcp.map((port) => ({ address, port })),
      ...[7001, 7010, 7011].map((port) => ({ address, port, protocol: "udp" as const })),
      { address, port: address === v4 ? 7020 : 7021 },
      { address, port: 7022, protocol: address === v4 ? ("tcp" as const) : ("udp" as const) },
      { address, port: address === v4 ? 7021 : 7020, unexpected: true },
    ]);
    const seen = { [v4]: `web ${site.neighbourAddress.v4}`, [v6]: `web ${site.neighbourAddress.v6}` };
    assert.deepEqual(
      await ask(site.neighbour, questions),
      questions.map(({ address, ...question }) =>
        "unexpected" in question ? "ECONNREFUSED" : seen[address],
      ),
    );
  });

  it("without a host port take one of the ephemeral range, the same for IPv4 and IPv6", async () => {
    await site.run("web", "blue", "-p", "80", "-p", "90/udp", "-p", "127.0.0.1::80");
    await site.run("all", "blue", "-P", "--expose", "80", "--expose", "8010-8011", "--expose", "90/udp");
    const [first, last] = (await site.exec(["cat", "/proc/sys/net/ipv4/ip_local_port_range"])).stdout
      .trim()
      .split(/\s+/)
      .map(Number);
    const ports = [...(await publishedBy(site, "web")), ...(await publishedBy(site, "all"))];
    const chosen = (pattern: RegExp) => ports.flatMap((port) => pattern.exec(port)?.[1] ?? []).map(Number);
    const v4 = chosen(/^0\.0\.0\.0:(\d+)>/);
    const loopback = chosen(/^127\.0\.0\.1:(\d+)>80\/tcp$/);
    assert.equal(loopback.length, 1);
    assert.equal(new Set(v4).size, 6);
    assert.deepEqual(chosen(/^\[::\]:(\d+)>/).sort(), v4.sort());
    for (const port of [...v4, ...loopback])
      assert.ok(port >= (first ?? 0) && port <= (last ?? 0), String(port));
    await answerers.start(site.host, "all", [80, 90, 8010, 8011], "all");
    const { v4: address } = site.address;
    const own = (await publishedBy(site, "all")).map((port) => /^0\S+:(\d+)>\d+\/(tcp|udp)$/.exec(port));
    const questions = own.flatMap((match) =>
      match ? [{ address, port: Number(match[1]), protocol: match[2] as "tcp" | "udp" }] : [],
    );
    const answers = await ask(site.neighbour, questions);
    assert.deepEqual(answers, new Array<string>(4).fill(`all ${site.neighbourAddress.v4}`));
  });

  it("with a range take its first free port, and say so when there is none", async () => {
    await site.run("c1", "blue", "-p", "7030:80");
    await site.run("c2", "blue", "-p", "7030-7032:80");
    await site.run("c3", "blue", "-p", "7030-7032:80");
    assert.deepEqual(await publishedBy(site, "c2"), everywhere(7031, 80));
    assert.deepEqual(await publishedBy(site, "c3"), everywhere(7032, 80));
    const refusal = await site.refused(...run("c4", "blue", "-p", "7030-7032:80"));
    assert.match(refusal, /no port of 7030-7032 is free/);
  });

  it("of one container never share a host port", async () => {
    await site.run("c1", "blue", "-p", "7040-7041:80", "-p", "7040-7041:90");
    const ports = await publishedBy(site, "c1");
    const [one, other] = ports.some((port) => port.endsWith(":7040>80/tcp")) ? [80, 90] : [90, 80];
    assert.deepEqual(ports, [...everywhere(7040, one), ...everywhere(7041, other)].sort());
    const refusal = await site.refused(...run("c2", "blue", "-p", "7042:80", "-p", "7042:90"));
    assert.match(refusal, /7042/);
  });

  it("take SCTP ports that no other container has, given or chosen", async () => {
    await site.run("c1", "blue", "-p", "7050:80/sctp", "-p", "80/sctp");
    assert.equal((await publishedBy(site, "c1")).length, 4);
    const refusal = await site.refused(...run("c2", "blue", "-p", "127.0.0.1:7050:80/sctp"));
    assert.match(refusal, /127\.0\.0\.1:7050\/sctp/);
  });

  it("lead from one family to the other where the container has only one", async () => {
    const { v4, v6 } = site.address;
    await site.network("four", "--subnet", subnets().v4);
    try {
      await site.run("c1", "four", "-p", "7060:80", "-p", "7060:90/udp");
      const ports = [...everywhere(7060, 80), ...everywhere(7060, 90, "udp")];
      assert.deepEqual(await publishedBy(site, "c1"), ports.sort());
      await site.run("c2", "four", ...[`[${v6}]:7061:80`, "[::1]:7062:80"].flatMap((form) => ["-p", form]));
      const refusal = await site.refused(...run("c3", "four", "-p", "[::]:7063:80/sctp"));
      assert.match(refusal, /the container has no IPv6 address/);
      // What was refused holds nothing: the port can be published.
      await site.run("c4", "blue", "-p", "7063:80/sctp");
      for (const name of ["c1", "c2"]) await answerers.start(site.host, name, [80, 90], name);
      const cases: [Question, boolean, boolean][] = [
        [{ address: "::1", port: 7060 }, true, false],
        [{ address: v6, port: 7060 }, true, true],
        [{ address: v6, port: 7060, protocol: "udp" }, true, true],
        [{ address: v6, port: 7061 }, true, true],
        [{ address: "::1", port: 7062 }, true, false],
        [{ address: v6, port: 7062 }, false, false],
        [{ address: v4, port: 7061 }, false, false],
      ];
      for (const [place, which] of [
        [site, 1],
        [site.neighbour, 2],
      ] as const)
        assert.deepEqual(
          (
            await ask(
              place,
              cases.map(([question, ...is]) => ({ ...question, unexpected: !is[which - 1] })),
            )
          ).map((answer) => /^c\d /.test(answer)),
          cases.map((one) => one[which]),
        );
    } finally {
      await site.removeContainers();
      await site.docker("network", "rm", "four");
    }
  });

  if (site.line === "28.5")
    it("lead to either network of a container that has one for each family", async () => {
      const [four, six] = [subnets(), subnets()];
      await site.network("four", "--subnet", four.v4);
      await site.network("six", "--ipv4=false", "--ipv6", "--subnet", six.v6);
      try {
        await site.run("c1", "four", "--network", "six", "-p", "7080:80", "-p", "7080:80/udp");
        await site.run("c2", "six", "-p", "7081:80");
        assert.deepEqual(await publishedBy(site, "c2"), everywhere(7081, 80));
        // The engine asks for IPv4 anew, which a relay has led to the other network until then.
        await site.docker("network", "connect", "four", "c2");
        assert.deepEqual(await publishedBy(site, "c2"), everywhere(7081, 80));
        assert.deepEqual(
          await publishedBy(site, "c1"),
          [...everywhere(7080, 80), ...everywhere(7080, 80, "udp")].sort(),
        );
        for (const name of ["c1", "c2"]) await answerers.start(site.host, name, [80], name);
        const { v4, v6 } = site.address;
        const asked = [v4, v6].flatMap((address): Question[] => [
          { address, port: 7080 },
          { address, port: 7080, protocol: "udp" },
          { address, port: 7081 },
        ]);
        // Nobody stands between.
        const seen = Object.values(site.neighbourAddress).flatMap((client) =>
          ["c1", "c1", "c2"].map((name) => `${name} ${client}`),
        );
        assert.deepEqual(await ask(site.neighbour, asked), seen);
      } finally {
        await site.removeContainers();
        await site.docker("network", "rm", "four", "six");
      }
    });

  it("name an address that the host does not have when they are refused", async () => {
    const refusal = await site.refused(...run("c1", "blue", "-p", "10.99.0.1:7070:80"));
    assert.match(refusal, /10\.99\.0\.1:7070\/tcp: 10\.99\.0\.1 is not an address of this host/);
    await site.docker("rm", "c1");
    const linkLocal = await site.refused(...run("c1", "blue", "-p", "[fe80::1]:7070:80"));
    assert.match(linkLocal, /\[fe80::1\]:7070\/tcp: fe80::1 is an address of one link only, choose another/);
  });

  it("are shown by `tsnet ports`, as no engine shows them", async () => {
    await site.run("web", "blue", "-p", "127.0.0.1:7080:80");
    const { v4 } = await site.attachment("web", "blue");
    const [heading, row] = (await tsnet(site, "ports")).split("\n").map((line) => line.split(/\s{2,}/));
    assert.deepEqual(heading, ["CONTAINER", "NETWORK", "HOST", "TO"]);
    assert.deepEqual(row, ["web", "blue", "127.0.0.1:7080", `${v4}:80/tcp`]);
  });
});

/** One host port on every address, as `publishedBy` tells it. */
function everywhere(port: number, target: number, protocol = "tcp"): string[] {
  return ["0.0.0.0", "[::]"].map((host) => `${host}:${String(port)}>${String(target)}/${protocol}`);
}

function run(name: string, network: string, ...args: string[]): string[] {
  return ["run", "-d", "--name", name, "--network", network, ...args, BOX];
}
