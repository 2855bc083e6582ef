import type { LabHost } from "../lab/host.ts";
import { type Timing, nameOf } from "./latency.ts";
import { table } from "./report.ts";
import { median } from "./statistics.ts";

/** A line of tsnet's log, as far as it matters here. */
interface Line {
  /** Milliseconds since 1970. */
  readonly time: number;
  readonly msg: string;
  readonly method?: string;
  readonly ms?: number;
  readonly step?: string;
}

/** One request that tsnet served: its steps with the milliseconds of each. */
interface Request {
  readonly method: string;
  readonly ms: number;
  readonly steps: readonly { readonly name: string; readonly ms: number }[];
}

/**
 * Where the time of each of tsnet's operations goes: how much of it is in tsnet's own handlers, which requests
 * those are, and which of their steps take half a millisecond or more. The rest is the engine's, and the kernel's
 * on its behalf.
 */
export async function profile(host: LabHost, timings: readonly Timing[]): Promise<string> {
  const lines = parse(await host.tsnetLog());
  const none = median(timings.filter(({ side }) => side === "none").map(({ ms }) => ms));
  const rows: string[][] = [];
  for (const operation of new Set(timings.map(({ operation }) => operation))) {
    const mine = timings.filter((timing) => timing.operation === operation && timing.side === "tsnet");
    const whole = median(mine.map(({ ms }) => ms)) - (operation === "start" ? none : 0);
    const requests = mine.map(({ from, to }) =>
      requestsOf(lines.filter(({ time }) => time >= from && time <= to)),
    );
    rows.push(...operationRows(nameOf(operation), whole, requests));
  }
  return table(["", "ms", "of it"], rows);
}

/** @param rounds the requests of each time the operation was done */
function operationRows(name: string, whole: number, rounds: readonly (readonly Request[])[]): string[][] {
  const ours = median(rounds.map((requests) => requests.reduce((sum, { ms }) => sum + ms, 0)));
  const row = (what: string, ms: number): string[] => [
    what,
    ms.toFixed(1),
    `${String(Math.round((ms / whole) * 100))} %`,
  ];
  // The end of something that the operation before left to do is not part of this one.
  const methods = [...new Set(rounds.flat().map(({ method }) => method))];
  const usual = methods.filter((method) => asked(rounds, method) > rounds.length / 2);
  return [
    row(`**${name}**`, whole),
    row("tsnet", ours),
    ...usual.flatMap((method) => {
      const mine = rounds.flat().filter((request) => request.method === method);
      return [row(`- ${method}`, median(mine.map(({ ms }) => ms))), ...stepRows(mine, row)];
    }),
    row("engine and kernel", whole - ours),
  ];
}

function asked(rounds: readonly (readonly Request[])[], method: string): number {
  return rounds.filter((requests) => requests.some((request) => request.method === method)).length;
}

/** The log has whole milliseconds, so only the mean over many requests says something. */
function stepRows(requests: readonly Request[], row: (what: string, ms: number) => string[]): string[][] {
  const totals = new Map<string, number>();
  for (const { name, ms } of requests.flatMap(({ steps }) => steps))
    totals.set(name, (totals.get(name) ?? 0) + ms);
  return [...totals]
    .map(([name, total]) => [name, total / requests.length] as const)
    .filter(([, mean]) => mean >= 0.5)
    .map(([name, mean]) => row(`  - ${name}`, mean));
}

/** The benchmark does one thing at a time, so the steps before a request's own line are that request's. */
function requestsOf(lines: readonly Line[]): Request[] {
  const requests: Request[] = [];
  let steps: Line[] = [];
  for (const line of lines) {
    if (line.step !== undefined) steps.push(line);
    if (line.msg !== "request" || line.method === undefined || line.ms === undefined) continue;
    let before = line.time - line.ms;
    requests.push({
      method: line.method,
      ms: line.ms,
      steps: steps.map(({ msg, step = "", time }) => {
        const ms = time - before;
        before = time;
        return { name: `${msg} ${anonymous(step)}`, ms };
      }),
    });
    steps = [];
  }
  return requests;
}

/** The same step of another network has the same name. */
function anonymous(step: string): string {
  return step.replace(/[0-9a-f]{12,}/g, "…").replace(/\d+(\.\d+){3}/g, "…");
}

function parse(log: string): Line[] {
  return log
    .split("\n")
    .filter((line) => line.startsWith("{"))
    .map((line) => JSON.parse(line) as Line);
}
