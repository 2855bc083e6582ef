import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { bridgeName } from "../../src/names.ts";
import { LabError } from "../lab/command.ts";
import { LabHost } from "../lab/host.ts";
import { Underlay } from "../lab/underlay.ts";
import { type Attachment, CrowdClient, attachment, attachments, together } from "../support/crowd.ts";
import { id } from "../support/requests.ts";
import { pairsFloor } from "./floor.ts";
import { using } from "./lab.ts";
import { table } from "./report.ts";
import { median, percentile } from "./statistics.ts";

const NETWORKS = 200;
const FEW = 10;
const HALF = 500;
const MANY = 1000;
/** Containers that start at once. */
const PARALLEL = 32;
const BURSTS = 12;
/** Operations of each side for what one costs, in turns. */
const SAMPLES = 60;
/** Containers that come and go are numbered apart from those that stay. */
const GUESTS = 5000;
/** Longer than the kernel goes on with a link after the answer: until then it lets nobody else change links. */
const APART_MS = 60;
/** Longer than the daemon takes to look at what has just changed. */
const SETTLE_MS = 1500;
const RECONCILED_MS = 60_000;
const RECONCILED = "host is as recorded";

/** One figure against its goal. */
interface Figure {
  readonly what: string;
  readonly value: number;
  readonly unit: "ms" | "MB" | "×";
  /** At most. Absent: none was set. */
  readonly goal?: number;
}

/**
 * What a daemon with a thousand containers on two hundred networks costs, each with a published port. No engine takes
 * part: what is asked of the daemon is what an engine asks, and the links stay where they were made.
 *
 * @returns a table
 */
export async function measureScale(progress: (text: string) => void): Promise<string> {
  const underlay = await Underlay.start({ name: "scale-wire" });
  return await using(
    underlay,
    () => underlay.stop(),
    async () =>
      await withHost("few", underlay, async (few) =>
        withHost("many", underlay, async (many) => {
          const figures = await measure(few, many, progress);
          const rows = figures.map(({ what, value, unit, goal }) => [
            what,
            `${value.toFixed(unit === "×" ? 2 : 1)} ${unit}`,
            goal === undefined ? "" : `≤ ${String(goal)} ${unit}`,
            goal === undefined ? "" : value <= goal ? "met" : "missed",
          ]);
          return table(["", "measured", "goal", ""], rows);
        }),
      ),
  );
}

async function withHost<T>(name: string, underlay: Underlay, use: (host: LabHost) => Promise<T>): Promise<T> {
  return await using(await LabHost.start({ name, underlay, tsnet: true }), (host) => host.stop(), use);
}

async function measure(few: LabHost, many: LabHost, progress: (text: string) => void): Promise<Figure[]> {
  const figures: Figure[] = [];
  progress(`${String(FEW)} containers on one host, ${String(HALF)} on the other`);
  await settle(few, FEW, NETWORKS);
  await settle(many, HALF, NETWORKS);
  for (const [where, networks] of [
    ["on one network", 1],
    [`on ${String(PARALLEL)} networks`, PARALLEL],
  ] as const) {
    progress(`${String(PARALLEL)} containers at once ${where}`);
    const times = await bursts(many, networks);
    const what = `${String(PARALLEL)} starts at once ${where}, ${String(HALF)} containers there`;
    figures.push(
      { what: `${what}: p50`, value: percentile(times, 0.5), unit: "ms", goal: 15 },
      { what: `${what}: p99`, value: percentile(times, 0.99), unit: "ms", goal: 60 },
    );
  }
  figures.push({
    what: `the kernel's part of ${String(PARALLEL)} starts: their veth pairs by one ip -batch`,
    value: await pairsFloor(many, bridgeName(id(1)), PARALLEL),
    unit: "ms",
  });
  progress(`${String(MANY)} containers`);
  await settle(many, MANY, NETWORKS, HALF);
  figures.push(...(await growth(few, many)));
  figures.push({ what: "resident memory", value: await residentMegabytes(many), unit: "MB", goal: 150 });
  progress("restart");
  for (const [what, end] of [
    ["restart and full reconcile", () => many.stopTsnet()],
    ["the same after a crash", () => many.killTsnet()],
  ] as const)
    figures.push({ what, value: await restart(many, end), unit: "ms", goal: 2000 });
  await sleep(SETTLE_MS);
  figures.push({
    what: "resident memory after the restart",
    value: await residentMegabytes(many),
    unit: "MB",
    goal: 150,
  });
  return figures;
}

/** Fills a host up to so many containers, on so many networks. */
async function settle(host: LabHost, count: number, networks: number, there = 0): Promise<void> {
  const socket = socketOf(host);
  if (there === 0) {
    const numbers = Array.from({ length: networks }, (_, index) => 1 + index);
    await together(socket, 4, numbers, (client, number) => client.createNetwork(number));
  }
  await together(socket, 4, attachments(there, count - there, networks), (client, one) => client.attach(one));
  await sleep(SETTLE_MS);
}

/** Starts of containers at once, and their ends, some times over. @returns milliseconds of each start */
async function bursts(host: LabHost, networks: number): Promise<number[]> {
  const times: number[] = [];
  for (let round = 0; round < BURSTS; round += 1) {
    const guests = attachments(GUESTS, PARALLEL, networks);
    const socket = socketOf(host);
    const took = await together(socket, PARALLEL, guests, (client, guest) => client.attach(guest));
    // The first one warms up.
    if (round > 0) times.push(...took);
    await sleep(SETTLE_MS / 3);
    await together(socket, PARALLEL, guests, (client, guest) => client.detach(guest));
    await sleep(SETTLE_MS / 3);
  }
  return times;
}

/** What one operation costs on either host, one at a time and in turns, so that whatever else the machine does hits both. */
async function growth(few: LabHost, many: LabHost): Promise<Figure[]> {
  const hosts = await Promise.all([few, many].map((host) => CrowdClient.open(socketOf(host))));
  const operations = {
    "container start": (client: CrowdClient, guest: Attachment) => client.attach(guest),
    "container stop": (client: CrowdClient, guest: Attachment) => client.detach(guest),
    "network create": (client: CrowdClient) => client.createNetwork(NETWORKS + 1),
    "network remove": (client: CrowdClient) => client.deleteNetwork(NETWORKS + 1),
  };
  const samples = Object.fromEntries(
    Object.keys(operations).map((name) => [name, hosts.map(() => [] as number[])]),
  );
  for (let round = 0; round < SAMPLES; round += 1)
    for (const [name, operation] of Object.entries(operations)) {
      // No engine gives an id twice.
      for (const [index, client] of hosts.entries()) {
        samples[name]?.[index]?.push(await operation(client, attachment(GUESTS + round, 1)));
        await sleep(APART_MS);
      }
    }
  for (const client of hosts) client.close();
  return Object.entries(samples).flatMap(([name, [atFew = [], atMany = []]]) => [
    { what: `${name}, ${String(FEW)} containers there`, value: median(atFew), unit: "ms" as const },
    { what: `${name}, ${String(MANY)} containers there`, value: median(atMany), unit: "ms" as const },
    { what: `${name}: growth`, value: median(atMany) / median(atFew), unit: "×" as const, goal: 1.5 },
  ]);
}

/** Milliseconds from the daemon's start until it has looked at everything. */
async function restart(host: LabHost, end: () => Promise<void>): Promise<number> {
  await end();
  const before = (await host.tsnetLog()).length;
  const start = Date.now();
  await host.startTsnet();
  for (;;) {
    const lines = (await host.tsnetLog()).slice(before).split("\n");
    const line = lines.find((text) => text.includes(`"msg":"${RECONCILED}"`));
    if (line !== undefined) return (JSON.parse(line) as { time: number }).time - start;
    if (Date.now() - start > RECONCILED_MS)
      throw new LabError(`not reconciled:\n${lines.slice(-5).join("\n")}`);
    await sleep(20);
  }
}

async function residentMegabytes(host: LabHost): Promise<number> {
  // The number is the inside's, and the host's /proc is seen through its root.
  const pid = (await readFile(join(host.dir, "tsnet.pid"), "utf8")).trim();
  const status = await readFile(`/proc/${String(host.pid)}/root/proc/${pid}/status`, "utf8");
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]) / 1024;
}

function socketOf(host: LabHost): string {
  return join(host.runDir, "docker/plugins/tsnet.sock");
}
