import type { Fault } from "./faults.ts";

/** A fault, when it began, and when all worked again after it; milliseconds since 1970. */
export interface Happened {
  readonly fault: Fault;
  readonly from: number;
  /** Infinity until then. */
  to: number;
}

const ERROR = 50;

/** What tsnet's log has at level error and no fault explains, and what is no line of a log, as a crash leaves it. */
export function unexplainedErrors(log: string, happened: readonly Happened[]): string[] {
  return log.split("\n").filter((line) => {
    if (line === "") return false;
    const { level, time, owner = "", reason } = read(line);
    return level >= ERROR && !(reason !== undefined && isExplained(owner, reason, time, happened));
  });
}

/** Whether a fault explains that somebody is degraded for that reason. */
export function isExplained(
  owner: string,
  reason: string,
  at: number,
  happened: readonly Happened[],
): boolean {
  const [kind] = owner.split(" ", 1);
  return happened.some(({ fault: { degrades: it }, from, to }) => {
    if (!it || it.owner !== kind || !it.why.test(reason)) return false;
    return from <= at && at <= to + it.forMs;
  });
}

interface Line {
  readonly level: number;
  readonly time: number;
  readonly owner?: string;
  readonly reason?: string;
}

function read(line: string): Line {
  try {
    return JSON.parse(line) as Line;
  } catch {
    return { level: Infinity, time: 0 };
  }
}
