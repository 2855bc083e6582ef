import assert from "node:assert/strict";
import { compose } from "../lab/compose.ts";
import { ask, Answerers } from "./answers.ts";
import { addresses, defaultRoutes, interfaces } from "./interfaces.ts";
import { onNewestEngine } from "./newest-engine.ts";
import { type Subnets, subnets } from "./site.ts";
import { mustBe, onHost } from "./snapshot.ts";

const PROJECT = "shop";
const SERVICES = ["web", "db", "other"] as const;
type Service = (typeof SERVICES)[number];

/** What the services look like from inside, and who reaches whom. */
interface View {
  readonly inside: Readonly<Record<string, unknown>>;
  /** By service, the names that answer it. */
  readonly names: Readonly<Record<string, readonly string[]>>;
  readonly ports: readonly (string | undefined)[];
}

onNewestEngine("a compose file", (site) => {
  const [front, back] = [subnets(), subnets()];
  const answerers = new Answerers();
  let program = "";

  before(async function () {
    // The first run on a machine downloads it.
    this.timeout(300_000);
    program = await compose();
  });
  afterEach(async () => {
    await answerers.stop();
    await site.clear();
  });

  it("has another word for the driver, and all else is as it was", async () => {
    const before = await onHost(site);
    const theirs = await seen(fileWith("bridge", front, back));
    const mine = await seen(fileWith("tsnet", front, back));
    assert.deepEqual(mine, theirs);
    assert.deepEqual(mine.names, { web: ["web", "www", "db"], db: ["web", "db"], other: ["other"] });
    assert.deepEqual(mine.ports, ["web", "web"]);
    await mustBe(before, site);
  });

  it("is followed when it changes", async () => {
    const before = await onHost(site);
    const file = fileWith("tsnet", front, back);
    await run(file, "up", "--detach");
    const changed = file.replace("mtu: 1400", "mtu: 1300");
    await run(changed, "up", "--detach", "--scale", "other=3");
    const mtus = Object.values(await interfaces(container("web"))).map(({ mtu }) => mtu);
    assert.deepEqual([mtus.includes(1300), mtus.includes(1400)], [true, false]);
    assert.equal((await site.docker("ps", "-q", "--filter", "name=other")).split("\n").length, 3);
    await run(changed, "restart", "--timeout", "1", "db");
    assert.deepEqual(await answering("web", ["db"]), ["db"]);
    await run(changed, "down", "--timeout", "1");
    await mustBe(before, site);
  });

  async function run(file: string, ...args: string[]): Promise<void> {
    await site.exec([program, "--project-name", PROJECT, "--file", "-", ...args], { input: file });
  }

  function nameOf(service: Service): string {
    return `${PROJECT}-${service}-1`;
  }

  function container(service: Service) {
    return site.container(nameOf(service));
  }

  /** What there is while the file is up. */
  async function seen(file: string): Promise<View> {
    await run(file, "up", "--detach");
    const inside: Record<string, unknown> = {};
    const names: Record<string, readonly string[]> = {};
    for (const service of SERVICES) {
      const place = container(service);
      const { lo: _, ...links } = await interfaces(place);
      const gateways = [...(await defaultRoutes(place)), ...(await defaultRoutes(place, 6))];
      inside[service] = {
        // Which of two networks has eth0 is the engine's choice, and another each time.
        links: Object.values(links)
          .map((link) => [link.mtu, ...addresses(link)].join(" "))
          .sort(),
        gateways: gateways.map((route) => route.split(" ")[0]),
      };
      names[service] = await answering(service, ["web", "www", "db", "other"]);
    }
    await answerers.start(site.host, "web", [80], nameOf("web"));
    const questions = [8081, 8082].map((port) => ({ address: site.address.v4, port }));
    const ports = (await ask(site.neighbour, questions)).map((answer) => answer.split(" ")[0]);
    await answerers.stop();
    await run(file, "down", "--timeout", "1");
    return { inside, names, ports };
  }

  /** Which of these names are known to a service, and answer it. */
  async function answering(service: Service, names: readonly string[]): Promise<string[]> {
    // One that is not known is asked for outside, where nobody answers.
    const tries = names.map((name) => `(timeout 2 ping -c 1 ${name} >/dev/null 2>&1 && echo ${name}) &`);
    const said = await site.docker("exec", nameOf(service), "sh", "-c", `${tries.join("\n")}\nwait`);
    return names.filter((name) => said.split("\n").includes(name));
  }
});

/** Two services of three on networks of the file's, with most of what a file says of networks. */
function fileWith(driver: string, front: Subnets, back: Subnets): string {
  return `
services:
  web:
    image: tsnet/box
    networks:
      front: {ipv4_address: ${front.ip(10)}, aliases: [www]}
      back: {ipv4_address: ${back.ip(10)}, ipv6_address: "${back.ip6(10)}"}
    ports: ["8081:80", {target: 80, published: "8082", protocol: tcp}]
  db:
    image: tsnet/box
    mac_address: "02:11:22:33:44:55"
    networks:
      back: {ipv4_address: ${back.ip(11)}, ipv6_address: "${back.ip6(11)}"}
  other:
    image: tsnet/box
networks:
  default: {driver: ${driver}}
  front:
    driver: ${driver}
    driver_opts:
      com.docker.network.driver.mtu: 1400
      com.docker.network.bridge.host_binding_ipv4: 0.0.0.0
    ipam: {config: [{subnet: ${front.v4}, ip_range: ${front.ip(128)}/25, aux_addresses: {router: ${front.ip(200)}}}]}
  back:
    driver: ${driver}
    internal: true
    enable_ipv6: true
    ipam: {config: [{subnet: ${back.v4}, gateway: ${back.ip(1)}}, {subnet: "${back.v6}"}]}
`;
}
