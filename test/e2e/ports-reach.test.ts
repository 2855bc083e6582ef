import assert from "node:assert/strict";
import { Answerers, type Question, ask } from "./answers.ts";
import { withBridgeNetfilter } from "./bridge-netfilter.ts";
import { onEachEngine } from "./each-engine.ts";
import { repairs } from "./published.ts";
import { type Place, type Subnets, subnets } from "./site.ts";

/** Host ports, by the host addresses that they are published on. */
const ALL = 8080;
const AGAIN = 8083;
const OWN = 8082;
const LOOPBACK = 8081;

/** Addresses and ports to ask, and as whom the server sees who asks: for IPv4, for IPv6; nobody: no answer. */
interface Row {
  readonly at: readonly string[];
  readonly ports: readonly number[];
  readonly seen: readonly [string | RegExp, string | RegExp] | "nobody";
}

onEachEngine("reach of published ports", (site) => {
  const answerers = new Answerers();
  const [blue, green, plain] = [subnets(), subnets(), subnets()];
  const gateway = [blue.ip(1), blue.ip6(1)] as const;

  before(async () => {
    await Promise.all([site.network("blue", ...args(blue)), site.network("green", ...args(green))]);
    await site.docker("network", "create", ...args(plain), "plain");
    const { v4, v6 } = site.address;
    const published = [
      ...[`${ALL}:80`, `${AGAIN}:80`, `${v4}:${OWN}:80`, `[${v6}]:${OWN}:80`],
      ...[`127.0.0.1:${LOOPBACK}:80`, `[::1]:${LOOPBACK}:80`],
    ].flatMap((port) => ["-p", port, "-p", `${port}/udp`]);
    await Promise.all([
      site.run("web", "blue", "--ip", blue.ip(10), "--ip6", blue.ip6(10), ...published),
      site.run("peer", "blue", "--ip", blue.ip(20), "--ip6", blue.ip6(20)),
      site.run("other", "green", "--ip", green.ip(30), "--ip6", green.ip6(30)),
      site.run("stranger", "plain", "--ip", plain.ip(40), "--ip6", plain.ip6(40)),
    ]);
    await answerers.start(site.host, "web", [80], "web");
  });

  after(() => answerers.stop());

  it("is every address of the host from outside, and the client keeps its own", async () => {
    const at = Object.values(site.address);
    const { v4, v6 } = site.neighbourAddress;
    await check(site.neighbour, [
      { at, ports: [ALL, AGAIN, OWN], seen: [v4, v6] },
      { at, ports: [LOOPBACK], seen: "nobody" },
    ]);
  });

  it("is every address of the host from another network, and the client keeps its own", async () => {
    await check(site.container("other"), fromContainer([green.ip(30), green.ip6(30)]));
  });

  it("is every address of the host from a network of the engine's", async () => {
    await check(site.container("stranger"), fromContainer(hidden(plain.ip(40), plain.ip6(40))));
  });

  for (const name of ["peer", "web"])
    it(`is every address of the host from ${name === "web" ? "the container itself" : "the same network"}`, async () => {
      await check(site.container(name), fromContainer(gateway));
    });

  it("is every address of the host from the host, and loopback", async () => {
    const loopback = ["127.0.0.1", "::1"];
    const engines = [plain.ip(1), plain.ip6(1)];
    await check(site, [
      ...ofHost()
        .filter((at) => !engines.includes(at))
        .map((at) => ({ at: [at], ports: [ALL, AGAIN], seen: [at, at] as const })),
      { at: engines, ports: [ALL, AGAIN], seen: hidden(plain.ip(1), plain.ip6(1)) },
      { at: Object.values(site.address), ports: [OWN], seen: [site.address.v4, site.address.v6] },
      { at: loopback, ports: [ALL, AGAIN, LOOPBACK], seen: gateway },
      { at: ["127.0.0.2"], ports: [ALL, AGAIN], seen: gateway },
      { at: [...loopback, ...bridges()], ports: [OWN], seen: "nobody" },
      { at: ["127.0.0.2", ...ofHost()], ports: [LOOPBACK], seen: "nobody" },
    ]);
  });

  for (const value of ["0", "1"] as const)
    it(`reaches a container that is on the client's network too, br_netfilter being ${value === "0" ? "off" : "on"}`, async () => {
      const at = Object.values(site.address);
      const own = [green.ip(30), green.ip6(30)] as const;
      const { v4, v6 } = site.neighbourAddress;
      const repaired = await repairs(site.host);
      await withBridgeNetfilter(site, value, async () => {
        await site.docker("network", "connect", "green", "web");
        try {
          await check(site.container("other"), [{ at, ports: [ALL, AGAIN, OWN], seen: gateway }]);
          await check(site.container("peer"), [{ at, ports: [ALL], seen: gateway }]);
          // Whoever has no network in common with it is seen as before.
          await check(site.neighbour, [{ at, ports: [ALL], seen: [v4, v6] }]);
        } finally {
          await site.docker("network", "disconnect", "green", "web");
        }
        await check(site.container("other"), [{ at, ports: [ALL, AGAIN, OWN], seen: own }]);
      });
      assert.deepEqual(await repairs(site.host), repaired);
    });

  it("reaches a container whose gateway moves to the client's network, and back", async () => {
    const at = Object.values(site.address);
    const near = subnets();
    const repaired = await repairs(site.host);
    // Engines choose the network that comes first in the alphabet.
    await site.network("amber", ...args(near));
    await withBridgeNetfilter(site, "0", async () => {
      await site.docker("network", "connect", "amber", "web");
      try {
        const moved = [near.ip(1), near.ip6(1)] as const;
        await check(site.container("peer"), [{ at, ports: [ALL, OWN], seen: moved }]);
        await check(site.container("web"), [{ at, ports: [ALL], seen: moved }]);
        const own = [green.ip(30), green.ip6(30)] as const;
        await check(site.container("other"), [{ at, ports: [ALL], seen: own }]);
      } finally {
        await site.docker("network", "disconnect", "amber", "web");
        await site.docker("network", "rm", "amber");
      }
      await check(site.container("peer"), [{ at, ports: [ALL, OWN], seen: gateway }]);
    });
    assert.deepEqual(await repairs(site.host), repaired);
  });

  it("needs no process of the engine's", async () => {
    const { stdout } = await site.exec(["sh", "-c", "cat /proc/[0-9]*/comm"]);
    assert.match(stdout, /^dockerd$/m);
    assert.doesNotMatch(stdout, /docker-proxy/);
  });

  /** What a container finds. */
  function fromContainer(seen: Exclude<Row["seen"], "nobody">): Row[] {
    return [
      { at: ofHost(), ports: [ALL, AGAIN], seen },
      { at: Object.values(site.address), ports: [OWN], seen },
      { at: bridges(), ports: [OWN], seen: "nobody" },
      { at: ofHost(), ports: [LOOPBACK], seen: "nobody" },
    ];
  }

  /** The engine hides whatever is on its networks behind the host, some versions IPv4 only. */
  function hidden(v4: string, v6: string): [RegExp, RegExp] {
    return [new RegExp(`^(${v4}|${gateway[0]})$`), new RegExp(`^(${v6}|${gateway[1]})$`)];
  }

  function ofHost(): string[] {
    return [...Object.values(site.address), ...bridges()];
  }

  function bridges(): string[] {
    return [blue, green, plain].flatMap(({ ip, ip6 }) => [ip(1), ip6(1)]);
  }
});

/** Asks everything by TCP and UDP. */
async function check(from: Place, rows: readonly Row[]): Promise<void> {
  const questions = rows.flatMap(({ at, ports, seen }) =>
    at.flatMap((address) =>
      ports.flatMap((port): Question[] => {
        const question = { address, port, unexpected: seen === "nobody" };
        return [question, { ...question, protocol: "udp" }];
      }),
    ),
  );
  const answers = await ask(from, questions);
  const wrong = questions.flatMap(({ protocol = "tcp", address, port }, index) => {
    const row = rows.find(({ at, ports }) => at.includes(address) && ports.includes(port));
    const answer = answers[index] ?? "";
    return row && fits(answer, row.seen, address) ? [] : [`${protocol} ${address} ${port}: ${answer}`];
  });
  assert.deepEqual(wrong, []);
}

function fits(answer: string, seen: Row["seen"], address: string): boolean {
  if (seen === "nobody") return answer === "nothing" || answer === "ECONNREFUSED";
  const [who, as = ""] = answer.split(" ");
  const expected = seen[address.includes(":") ? 1 : 0];
  return who === "web" && (typeof expected === "string" ? as === expected : expected.test(as));
}

function args({ v4, v6 }: Subnets): string[] {
  return ["--ipv6", "--subnet", v4, "--subnet", v6];
}
