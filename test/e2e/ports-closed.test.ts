import assert from "node:assert/strict";
import { Answerers, type Question, ask } from "./answers.ts";
import { onEachEngine } from "./each-engine.ts";
import { option, publish, published, publishedBy } from "./published.ts";
import { type Subnets, subnets } from "./site.ts";

const NOBODY = ["nothing", "ECONNREFUSED", "EHOSTUNREACH"];

onEachEngine("closed ports", (site) => {
  const answerers = new Answerers();

  afterEach(async () => {
    await answerers.stop();
    await site.clear();
  });

  it("are those published on loopback, also for a neighbour that routes 127/8 to the host", async () => {
    await network("blue", subnets());
    await site.run(
      "web",
      "blue",
      ...["127.0.0.2:8081:80", "8080:80", "127.0.0.2:8081:80/udp"].flatMap(publish),
    );
    await answerers.start(site.host, "web", [80], "web");
    const { neighbour, address } = site;
    const route = ["127.0.0.2/32", "via", address.v4, "dev", "eth0", "table", "local"];
    await neighbour.exec(["ip", "route", "add", ...route]);
    site.later(() => neighbour.exec(["ip", "route", "del", ...route]));
    for (const host of [neighbour, site]) {
      await host.exec(["sysctl", "-qw", "net.ipv4.conf.eth0.route_localnet=1"]);
      site.later(() => host.exec(["sysctl", "-qw", "net.ipv4.conf.eth0.route_localnet=0"]));
    }
    const arrival = ["PREROUTING", "-i", "eth0", "-d", "127.0.0.2"];
    await site.exec(["iptables", "-t", "raw", "-A", ...arrival]);
    site.later(() => site.exec(["iptables", "-t", "raw", "-D", ...arrival]));
    const loopback: Question[] = [
      { address: "127.0.0.2", port: 8081 },
      { address: "127.0.0.2", port: 8081, protocol: "udp" },
      { address: "127.0.0.2", port: 8080 },
    ];
    const hidden = loopback.map((question) => ({ ...question, unexpected: true }));
    const [reached, ...rest] = await ask(neighbour, [{ address: address.v4, port: 8080 }, ...hidden]);
    assert.equal(reached, `web ${site.neighbourAddress.v4}`);
    assert.deepEqual(
      rest.filter((answer) => answer.startsWith("web")),
      [],
    );
    const counters = await site.exec(["iptables", "-t", "raw", "-nvxL", "PREROUTING"]);
    assert.match(counters.stdout, /^ *[1-9]\d* .*127\.0\.0\.2/m, "the packets came to the host");
    assert.deepEqual(
      (await ask(site, loopback)).map((answer) => answer.split(" ")[0]),
      ["web", "web", "web"],
    );
  });

  it("are a container's own ports to whoever routes to its address, published or not", async () => {
    const net = subnets();
    await network("blue", net);
    await site.run("web", "blue", "--ip", net.ip(10), "--ip6", net.ip6(10), ...publish("8080:80"));
    await answerers.start(site.host, "web", [80, 90], "web");
    await site.routeFromNeighbour(net);
    const own = [net.ip(10), net.ip6(10)].flatMap((address) => [80, 90].map((port) => ({ address, port })));
    await nobodyAt(own);
    assert.deepEqual(await byHost(8080), ["web", "web"]);
    assert.deepEqual(new Set((await ask(site, own)).map((answer) => answer.split(" ")[0])), new Set(["web"]));
  });

  it("are all but the published ones of a routed network, and none of the host's", async () => {
    const net = subnets();
    const modes = [4, 6].flatMap((family) => option(`gateway_mode_ipv${family}=routed`));
    await network("blue", net, ...modes);
    await network("green", subnets());
    const ports = ["8080:80", "8090:90/udp"].flatMap(publish);
    await Promise.all([
      site.run("web", "blue", "--ip", net.ip(10), "--ip6", net.ip6(10), ...ports),
      site.run("other", "green"),
    ]);
    assert.deepEqual(await publishedBy(site, "web"), [
      "routed>80/tcp",
      "routed>80/tcp",
      "routed>90/udp",
      "routed>90/udp",
    ]);
    await answerers.start(site.host, "web", [80, 90], "web");
    await site.routeFromNeighbour(net);
    const at = [net.ip(10), net.ip6(10)];
    const open = at.flatMap((address): Question[] => [
      { address, port: 80 },
      { address, port: 90, protocol: "udp" },
    ]);
    const { v4, v6 } = site.neighbourAddress;
    assert.deepEqual(
      await ask(site.neighbour, open),
      [v4, v4, v6, v6].map((seen) => `web ${seen}`),
    );
    await nobodyAt(
      at.flatMap((address): Question[] => [
        { address, port: 90 },
        { address, port: 80, protocol: "udp" },
      ]),
    );
    await nobodyAt(Object.values(site.address).map((address) => ({ address, port: 8080 })));
    // A published port of a routed network is open to the outside, not to other networks.
    const fromOther = await ask(
      site.container("other"),
      open.map((question) => ({ ...question, unexpected: true })),
    );
    assert.deepEqual(
      fromOther.filter((answer) => !NOBODY.includes(answer)),
      [],
    );
    assert.deepEqual(
      new Set((await ask(site, open)).map((answer) => answer.split(" ")[0])),
      new Set(["web"]),
    );
  });

  it("are all of an internal network", async () => {
    const net = subnets();
    await network("blue", net, "--internal");
    await site.run("web", "blue", "--ip", net.ip(10), ...publish("8080:80"));
    await site.run("peer", "blue");
    await answerers.start(site.host, "web", [80], "web");
    assert.deepEqual(await published(site), []);
    await nobodyAt(Object.values(site.address).map((address) => ({ address, port: 8080 })));
    const [answer] = await ask(site.container("peer"), [{ address: net.ip(10), port: 80 }]);
    assert.match(answer ?? "", /^web /);
    // They open with the first network that has a way out, and close with it.
    await network("green", subnets());
    await site.docker("network", "connect", "green", "web");
    assert.deepEqual(await byHost(8080), ["web", "web"]);
    await site.docker("network", "disconnect", "green", "web");
    await nobodyAt(Object.values(site.address).map((address) => ({ address, port: 8080 })));
  });

  it("are all there are to an internal network, also where a port leads to the other family", async () => {
    const [inside, beside] = [subnets(), subnets()];
    await network("blue", inside, "--internal");
    await network("green", beside);
    await site.network("four", "--subnet", subnets().v4);
    await Promise.all([
      site.run("c1", "blue"),
      site.run("c2", "green"),
      site.run("web", "four", ...publish("8080:80")),
    ]);
    await answerers.start(site.host, "web", [80], "web");
    await answerers.start(site.host, "host", [5000]);
    const gateways = ({ ip, ip6 }: Subnets, port: number) =>
      [ip(1), ip6(1)].map((address) => ({ address, port }));
    const names = (answers: readonly string[]) => answers.map((answer) => answer.split(" ")[0]);
    assert.deepEqual(names(await ask(site.container("c2"), gateways(beside, 8080))), ["web", "web"]);
    assert.deepEqual(names(await ask(site.container("c1"), gateways(inside, 5000))), ["host", "host"]);
    const closed = gateways(inside, 8080).map((question) => ({ ...question, unexpected: true }));
    const answers = await ask(site.container("c1"), closed);
    assert.deepEqual(
      answers.filter((answer) => !NOBODY.includes(answer)),
      [],
    );
  });

  it("are the host's own on loopback to a container that routes 127/8 to the host", async () => {
    const net = subnets();
    await network("blue", net);
    const web = await site.run("web", "blue", ...publish("127.0.0.1:8080:80"));
    await answerers.start(site.host, "web", [80], "web");
    await answerers.start(site.host, "host", [5000]);
    await web.exec(["sysctl", "-qw", "net.ipv4.conf.eth0.route_localnet=1"]);
    await web.exec(["ip", "route", "add", "127.0.0.2/32", "via", net.ip(1), "dev", "eth0", "table", "local"]);
    const [byGateway, byLoopback] = await ask(web, [
      { address: net.ip(1), port: 5000 },
      { address: "127.0.0.2", port: 5000, unexpected: true },
    ]);
    assert.match(byGateway ?? "", /^host /);
    assert.ok(NOBODY.includes(byLoopback ?? ""), byLoopback);
    assert.deepEqual(await ask(site, [{ address: "127.0.0.2", port: 5000 }]), ["host 127.0.0.1"]);
  });

  it("are the host's own to a container that says it is loopback", async () => {
    const net = subnets();
    await network("blue", net);
    const web = await site.run("web", "blue", "--ip", net.ip(10));
    await web.exec(["sysctl", "-qw", "net.ipv4.conf.eth0.route_localnet=1"]);
    await web.exec(["ip", "addr", "add", "127.0.0.2/32", "dev", "eth0"]);
    // Behind tsnet's own rules, so that what they drop is not counted.
    const counters = ["127.0.0.2", net.ip(10)].map((source) => [
      "INPUT",
      "-s",
      source,
      "-p",
      "udp",
      "--dport",
      "5000",
    ]);
    for (const rule of counters) {
      await site.exec(["iptables", "-t", "mangle", "-A", ...rule]);
      site.later(() => site.exec(["iptables", "-t", "mangle", "-D", ...rule]));
    }
    for (const source of ["127.0.0.2", net.ip(10)])
      await web.exec(["sh", "-c", `echo | socat -u STDIN UDP4-SENDTO:${net.ip(1)}:5000,bind=${source}`]);
    const { stdout } = await site.exec(["iptables", "-t", "mangle", "-nvxL", "INPUT"]);
    const counts = ["127.0.0.2", net.ip(10)].map(
      (source) =>
        stdout
          .split("\n")
          .find((line) => line.includes(` ${source} `))
          ?.trim()
          .split(/\s+/)[0],
    );
    assert.deepEqual(counts, ["0", "1"]);
  });

  async function network(name: string, { v4, v6 }: Subnets, ...args: string[]): Promise<void> {
    await site.network(name, "--ipv6", "--subnet", v4, "--subnet", v6, ...args);
  }

  /** Nobody answers the neighbour there; that somebody would is for the caller to show. */
  async function nobodyAt(questions: readonly Question[]): Promise<void> {
    const answers = await ask(
      site.neighbour,
      questions.map((question) => ({ ...question, unexpected: true })),
    );
    assert.deepEqual(
      answers.filter((answer) => !NOBODY.includes(answer)),
      [],
    );
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
