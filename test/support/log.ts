import { type Logger, pino } from "pino";

/** One line of a log as it was written. */
export interface LogLine {
  readonly level: string;
  readonly msg: string;
  readonly [field: string]: unknown;
}

/** A logger that keeps its lines, the newest last. */
export function memoryLog(): { log: Logger; lines: LogLine[] } {
  const lines: LogLine[] = [];
  const options = { level: "debug", formatters: { level: (level: string) => ({ level }) } };
  const log = pino(options, { write: (text: string) => lines.push(JSON.parse(text) as LogLine) });
  return { log, lines };
}
