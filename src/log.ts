import { constants, fstatSync, openSync } from "node:fs";
import { isatty } from "node:tty";
import { type DestinationStream, type Logger, pino } from "pino";
import { isErrno } from "./errors.ts";

const STDOUT = 1;
/** Bytes that are kept while they find no room, as on a disk that is full; what comes then is lost. */
const UNWRITTEN = 1 << 20;
/** Milliseconds until they are tried again where a reader only has to catch up. */
const AGAIN_MS = 100;
/** Milliseconds that a reader has for the rest once the daemon ends. */
const PATIENCE_MS = 1000;

/**
 * The daemon's log, to standard output. What was logged is written at once, so that the last lines survive a crash.
 * That they cannot be is told to nobody: the daemon has more to do than to write a log.
 */
export function openLog(level: string): Logger {
  return pino({ level }, standardOutput());
}

function standardOutput(): DestinationStream {
  let patientUntil = 0;
  let again: NodeJS.Timeout | undefined;
  const output = pino.destination({
    dest: ownDescriptor(),
    sync: true,
    maxLength: UNWRITTEN,
    retryEAGAIN: () => performance.now() < patientUntil,
  });
  // Whatever is written has what is left written before it.
  const catchUp = () => output.write("");
  output.on("error", (error: unknown) => {
    if (!isErrno(error, "EAGAIN")) return;
    again ??= setTimeout(() => {
      again = undefined;
      catchUp();
    }, AGAIN_MS).unref();
  });
  process.once("exit", () => {
    patientUntil = performance.now() + PATIENCE_MS;
    catchUp();
  });
  return output;
}

/**
 * A reader that has stopped, as a terminal does with Ctrl-S, must not stop the daemon. The flag for that belongs to the
 * open file, which the shell may share, so standard output is opened once more.
 *
 * @returns a descriptor; standard output's own where it is no pipe and no terminal
 */
function ownDescriptor(): number {
  const { O_WRONLY, O_NONBLOCK, O_NOCTTY } = constants;
  if (!isatty(STDOUT) && !fstatSync(STDOUT).isFIFO()) return STDOUT;
  try {
    return openSync(`/proc/self/fd/${STDOUT}`, O_WRONLY | O_NONBLOCK | O_NOCTTY);
  } catch {
    // Nobody reads, or /proc is not there.
    return STDOUT;
  }
}
