import { writeFile } from "node:fs/promises";
import { Command, InvalidArgumentError } from "commander";
import { install } from "../lab/debian.ts";
import { type EngineLine, parseEngineLine } from "../lab/engines.ts";
import type { Comparison } from "./comparison.ts";
import { kernelFloor, pluginFloor } from "./floor.ts";
import { BIG_TCP, BRIDGES, BenchLab, using } from "./lab.ts";
import { compareLatency, measureLatency } from "./latency.ts";
import { load, machineFacts } from "./machine.ts";
import { ENGINES, measureMacvlan } from "./macvlan.ts";
import { measurePorts } from "./ports.ts";
import { profile } from "./profile.ts";
import { comparisonTable } from "./report.ts";
import type { Plan } from "./rounds.ts";
import { measureScale } from "./scale.ts";
import { measureThroughput } from "./throughput.ts";
import { measureTogether } from "./together.ts";

/** The command line. */
interface Options {
  readonly engine: EngineLine;
  readonly latency?: true;
  readonly throughput?: true;
  readonly ports?: true;
  readonly together?: true;
  readonly macvlan?: true;
  readonly scale?: true;
  readonly profile?: true;
  readonly quick?: true;
  readonly rounds?: number;
  readonly seconds?: number;
  readonly json?: string;
}

/** What a section found. */
interface Result {
  readonly comparisons: readonly Comparison[];
  /** The engine's driver that tsnet is compared with. */
  readonly engine: "bridge" | "macvlan";
  /** Printed under the table. */
  readonly below?: string;
}

type Section = (lab: BenchLab, plan: Plan) => Promise<Result>;

/** Streams are steadier than single requests and take longer. */
const STREAM_SHARE = 1 / 3;

const program = new Command("npm run bench --")
  .description(
    "Times tsnet against the engine's own drivers, side by side on one host of the lab. Without a section: all of them.",
  )
  .option("--latency", "section: network create, container start, connect, disconnect, network remove")
  .option("--throughput", "section: TCP throughput and round-trip time")
  .option("--ports", "section: published ports")
  .option("--together", "section: containers started at once, and removed at once")
  .option("--macvlan", "section: macvlan networks, with the engine's own macvlan driver")
  .option("--scale", "instead of the sections: what a thousand containers on two hundred networks cost tsnet")
  .option(
    "--profile",
    "with --latency and --macvlan: how much of each operation is tsnet's own, and what no driver can avoid",
  )
  .option("--engine <line>", "20.10, 26.1 or 28.5 (20, 26, 28)", parseEngine, "28.5")
  .option("--rounds <n>", "rounds of each section (default 30; a third of it for streams)", parseCount)
  .option("--seconds <n>", "length of each stream (default 1)", parseCount)
  .option("--quick", "6 rounds: for a look, not for the record")
  .option("--json <file>", "write every sample")
  .action(bench);

async function bench(options: Options): Promise<void> {
  if (options.scale === true) {
    await install("iproute2", "iptables");
    print(await measureScale((text) => void process.stderr.write(`${text}\n`)));
    return;
  }
  await install("iperf3", "sockperf", "iproute2", "perl");
  const logLevel = options.profile === true ? ["--log-level", "debug"] : [];
  const progress = (text: string): void => void process.stderr.write(`${text}\n`);
  progress(`starting a host with engine ${options.engine} and its neighbour`);
  const loadBefore = load();
  const lab = await BenchLab.start(options.engine, logLevel);
  await using(
    lab,
    () => lab.stop(),
    async () => {
      const found: Record<string, readonly Comparison[]> = {};
      for (const [title, run] of sections(options)) {
        try {
          const { comparisons, engine, below } = await run(lab, plan(options, progress));
          found[title] = comparisons;
          print(`\n## ${title}\n\n${comparisonTable(comparisons, engine)}`);
          if (below !== undefined) print(`\n${below}`);
        } catch (error) {
          // What the other sections find is still worth having.
          print(`\n## ${title}\n\nnot measured: ${reason(error)}`);
          process.exitCode = 1;
        }
      }
      const facts = await machineFacts(lab.host, loadBefore);
      print(
        `\n${Object.entries(facts)
          .map(([name, value]) => `- ${name}: ${value}`)
          .join("\n")}`,
      );
      if (options.json !== undefined) await writeFile(options.json, JSON.stringify({ facts, ...found }));
    },
  );
}

function sections(options: Options): [string, Section][] {
  const all = [
    ["latency", "Latency", (lab, plan) => latency(lab, plan, options.profile === true)],
    ["throughput", "Throughput", throughput],
    ["ports", "Published ports", ports],
    ["together", "At once", together],
    ["macvlan", "Macvlan", (lab, plan) => macvlan(lab, plan, options.profile === true)],
  ] as const satisfies [keyof Options, string, Section][];
  const chosen = all.filter(([flag]) => options[flag] === true);
  return (chosen.length > 0 ? chosen : all).map(([, title, run]) => [title, run]);
}

async function latency(lab: BenchLab, plan: Plan, withProfile: boolean): Promise<Result> {
  const timings = await measureLatency(lab, "latency", BRIDGES, plan);
  const comparisons = compareLatency(timings);
  if (!withProfile) return { comparisons, engine: "bridge" };
  const below = `${await profile(lab.host, timings)}\n\n${await kernelFloor(lab)}`;
  return { comparisons, engine: "bridge", below };
}

async function throughput(lab: BenchLab, plan: Plan): Promise<Result> {
  const neighbour = { name: "neighbour", address: () => lab.neighbour.address?.v4 ?? "" };
  const usual = { name: "throughput", contenders: BRIDGES, neighbour };
  const big = { name: "big_tcp", contenders: BIG_TCP, note: ", big_tcp=true" };
  const comparisons = [
    ...(await measureThroughput(lab, usual, fewer(plan))),
    ...(await measureThroughput(lab, big, fewer(plan))),
  ];
  return { comparisons, engine: "bridge" };
}

async function ports(lab: BenchLab, plan: Plan): Promise<Result> {
  return { comparisons: await measurePorts(lab, fewer(plan)), engine: "bridge" };
}

async function together(lab: BenchLab, plan: Plan): Promise<Result> {
  return { comparisons: await measureTogether(lab, fewer(plan)), engine: "bridge" };
}

async function macvlan(lab: BenchLab, plan: Plan, withProfile: boolean): Promise<Result> {
  const comparisons = await measureMacvlan(lab, plan, fewer(plan));
  const engine = "macvlan";
  return { comparisons, engine, ...(withProfile ? { below: await pluginFloor(lab, ENGINES) } : {}) };
}

function plan({ quick, rounds, seconds }: Options, progress: Plan["progress"]): Plan {
  return {
    rounds: rounds ?? (quick === true ? 6 : 30),
    warmUp: quick === true ? 1 : 3,
    seconds: seconds ?? 1,
    progress,
  };
}

function fewer(plan: Plan): Plan {
  return { ...plan, rounds: Math.max(3, Math.round(plan.rounds * STREAM_SHARE)), warmUp: 1 };
}

function print(text: string): void {
  process.stdout.write(`${text}\n`);
}

function parseEngine(text: string): EngineLine {
  try {
    return parseEngineLine(text);
  } catch (error) {
    throw new InvalidArgumentError(reason(error));
  }
}

function reason(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function parseCount(text: string): number {
  if (!/^[1-9]\d*$/.test(text)) throw new InvalidArgumentError("a whole number, 1 or more");
  return Number(text);
}

try {
  await program.parseAsync();
} catch (error) {
  process.stderr.write(`bench: ${reason(error)}\n`);
  process.exitCode = 1;
}
