import assert from "node:assert/strict";
import { request } from "node:http";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Answerers } from "./answers.ts";
import { onNewestEngine } from "./newest-engine.ts";
import { published } from "./published.ts";
import { repairTime } from "./rules.ts";
import { type Place, subnets } from "./site.ts";

const CONTAINERS = 4;
const PORTS_EACH = 250;
const FIRST_PORT = 20_000;
const LAST_PORT = FIRST_PORT + CONTAINERS * PORTS_EACH - 1;

/** With and without the thousand in turn, so that whatever else the machine does hits both. */
const ROUNDS = 6;
const REQUESTS_EACH = 6;
const CONNECTIONS = 500;

/** What the last of a thousand ports may cost in multiples of the first. */
const MOST = { publish: 2, revoke: 2, connect: 1.2 } as const;
const PROGRAMS = ["iptables", "ip6tables"];
const REPAIRED_MS = 1000;
/** Or so many times what the kernel takes for the same rules at that moment: other tests run beside this one. */
const REPAIRED_TIMES = 4;
/** Longer than a change is looked after. */
const QUIET_MS = 3000;

interface Endpoint {
  readonly NetworkID: string;
  readonly EndpointID: string;
}

/** Connects to one port after the other, again and again, and prints the median of each in microseconds. */
const CONNECTOR = `
  const [, address, count, ...ports] = process.argv;
  const times = ports.map(() => []);
  const once = (port) => new Promise((resolve, reject) => {
    const start = process.hrtime.bigint();
    const socket = require("net").connect({ host: address, port });
    socket.on("error", reject).on("connect", () => {
      resolve(Number(process.hrtime.bigint() - start) / 1000);
      socket.resetAndDestroy();
    });
  });
  (async () => {
    for (let round = 0; round < Number(count); round++)
      for (const [index, port] of ports.entries()) times[index].push(await once(Number(port)));
    const median = (values) => values.sort((a, b) => a - b)[values.length >> 1];
    console.log(JSON.stringify(times.map(median)));
  })();`;

onNewestEngine("a thousand published ports", (site) => {
  const answerers = new Answerers();
  let one: Endpoint;
  const many: { endpoint: Endpoint; first: number }[] = [];

  before(async function () {
    this.timeout(180_000);
    const { v4, v6 } = subnets();
    const id = await site.network("blue", "--ipv6", "--subnet", v4, "--subnet", v6);
    const endpoint = async (name: string) => ({
      NetworkID: id,
      EndpointID: (await site.attachment(name, "blue")).id,
    });
    await site.run("one", "blue");
    one = await endpoint("one");
    for (let index = 0; index < CONTAINERS; index += 1) {
      const [name, first] = [`many${String(index)}`, FIRST_PORT + index * PORTS_EACH];
      const range = `${String(first)}-${String(first + PORTS_EACH - 1)}`;
      await site.run(name, "blue", "-p", `${range}:${range}`);
      many.push({ endpoint: await endpoint(name), first });
    }
    await answerers.start(site.host, "first", [FIRST_PORT], "many0");
    await answerers.start(site.host, "last", [LAST_PORT], `many${String(CONTAINERS - 1)}`);
    assert.equal((await published(site)).length, 2 * CONTAINERS * PORTS_EACH);
  });

  after(() => answerers.stop());

  it("cost at most twice the first to add one more, and to take it back", async function () {
    // As below.
    this.retries(2);
    const few = { publish: [] as number[], revoke: [] as number[] };
    const lots = { publish: [] as number[], revoke: [] as number[] };
    for (let round = 0; round < ROUNDS; round += 1) {
      for (const { endpoint } of many) await revoke(endpoint);
      await publishAndRevoke(few);
      for (const { endpoint, first } of many) await publish(endpoint, first, PORTS_EACH);
      await publishAndRevoke(lots);
    }
    for (const step of ["publish", "revoke"] as const) {
      const [first, last] = [median(few[step]), median(lots[step])];
      report(`${step} one port, of none and of 1,000`, first, last, "ms");
      assert.ok(last <= MOST[step] * first, `${step}: ${String(last)} ms, not ${String(first)} ms`);
    }
  });

  it("let a connection in through the last as through the first", async function () {
    // Other tests run beside this one; a way that is always longer still fails.
    this.retries(2);
    for (const address of Object.values(site.address)) {
      const [first, last] = await connectTimes(site.neighbour, address, [FIRST_PORT, LAST_PORT]);
      report(`connect through the first and the last rule at ${address}`, first, last, "µs");
      assert.ok(last <= MOST.connect * first, `${String(last)} µs, not ${String(first)} µs`);
    }
  });

  it("are back within a second when their rules were flushed", async function () {
    this.retries(4);
    const start = performance.now();
    await site.exec(["sh", "-c", PROGRAMS.map((name) => `${name}-save -t nat | ${name}-restore`).join(";")]);
    const kernelMs = Math.round(performance.now() - start);
    await sleep(QUIET_MS);
    const ms = await repairTime(site, PROGRAMS.map((name) => `${name} -t nat -F`).join(";"));
    console.log(`        repair of all: ${String(ms)} ms; the same rules once more: ${String(kernelMs)} ms`);
    assert.ok(ms < Math.max(REPAIRED_MS, REPAIRED_TIMES * kernelMs), `${String(ms)} ms`);
  });

  /** Has one container publish a port and take it back, and adds what the engine's requests took, in milliseconds. */
  async function publishAndRevoke(times: { publish: number[]; revoke: number[] }): Promise<void> {
    for (let request = 0; request < REQUESTS_EACH; request += 1) {
      times.publish.push(await publish(one, 9000, 1));
      times.revoke.push(await revoke(one));
    }
  }

  async function publish(endpoint: Endpoint, first: number, count: number): Promise<number> {
    const mappings = Array.from({ length: count }, (_, index) => {
      const port = first + index;
      return { Proto: 6, IP: "", Port: port, HostIP: "", HostPort: port, HostPortEnd: port };
    });
    const Options = { "com.docker.network.portmap": mappings };
    return await call("ProgramExternalConnectivity", { ...endpoint, Options });
  }

  async function revoke(endpoint: Endpoint): Promise<number> {
    return await call("RevokeExternalConnectivity", endpoint);
  }

  /** Calls the network driver as the engine does. @returns milliseconds until the answer */
  async function call(method: string, body: object): Promise<number> {
    const socketPath = join(site.host.runDir, "docker/plugins/tsnet.sock");
    const start = performance.now();
    const answer = await new Promise<string>((resolve, reject) => {
      const sent = request({ socketPath, path: `/NetworkDriver.${method}`, method: "POST" }, (reply) => {
        let text = "";
        reply.on("data", (data: Buffer) => (text += data.toString()));
        reply.on("end", () => {
          resolve(text);
        });
      });
      sent.on("error", reject);
      sent.end(JSON.stringify(body));
    });
    assert.doesNotMatch(answer, /Err/);
    return performance.now() - start;
  }
});

async function connectTimes(
  from: Place,
  address: string,
  ports: [number, number],
): Promise<[number, number]> {
  const args = [address, String(CONNECTIONS), ...ports.map(String)];
  return JSON.parse((await from.exec([process.execPath, "-e", CONNECTOR, ...args])).stdout) as [
    number,
    number,
  ];
}

function median(values: number[]): number {
  return values.sort((a, b) => a - b)[values.length >> 1] ?? 0;
}

function report(what: string, first: number, last: number, unit: string): void {
  const [a, b, ratio] = [first, last, last / first].map((value) => value.toFixed(2));
  console.log(`        ${what}: ${a ?? ""} and ${b ?? ""} ${unit}, ratio ${ratio ?? ""}`);
}
