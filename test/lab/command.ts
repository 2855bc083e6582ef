import { spawn } from "node:child_process";

/** What the lab throws when something on the machine does not go as asked. */
export class LabError extends Error {
  override readonly name: string = "LabError";
}

/** A command that ended with a code other than 0, was killed, or could not be started. */
export class CommandError extends LabError {
  override readonly name = "CommandError";
  /** What the command gave back before it failed. */
  readonly result: CommandResult;

  constructor(message: string, result: CommandResult) {
    super(message);
    this.result = result;
  }
}

/** How a command is run. */
export interface CommandOptions {
  /** Text for its standard input; without it the input is empty. */
  readonly input?: string;
  /** A code other than 0 is returned instead of thrown. */
  readonly allowFailure?: boolean;
  /** After this time the command and its children are killed and the call fails. Default 60,000. */
  readonly timeoutMs?: number;
  /** Variables beside those of this process. */
  readonly env?: Readonly<Record<string, string>>;
  /** Working directory. */
  readonly cwd?: string;
}

/** Output of a command that has ended. */
export interface CommandResult {
  readonly stdout: string;
  readonly stderr: string;
  /** Exit code; 128 + signal number where a signal ended it, as shells say it. */
  readonly code: number;
}

/** Exit code for a command that a KILL ended (signal(7)). */
const KILLED = 137;

/**
 * Runs a command to its end. It gets a process group of its own, so that a timeout also ends its children.
 *
 * @throws {CommandError} on a code other than 0 (unless allowed), on a timeout, or where it cannot be started
 */
export async function run(argv: readonly string[], options: CommandOptions = {}): Promise<CommandResult> {
  const [command, ...args] = argv;
  if (command === undefined) throw new LabError("run: empty command");
  const { input, allowFailure = false, timeoutMs = 60_000, env, cwd } = options;
  return await new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      detached: true,
      env: { ...process.env, ...env },
      ...(cwd === undefined ? {} : { cwd }),
    });
    let stdout = "";
    let stderr = "";
    let timedOut = false;
    const timer = setTimeout(() => {
      timedOut = true;
      if (child.pid !== undefined) process.kill(-child.pid, "SIGKILL");
    }, timeoutMs);
    const end = (code: number, problem?: string): void => {
      clearTimeout(timer);
      const result = { stdout, stderr, code };
      if (problem === undefined && (code === 0 || allowFailure)) resolve(result);
      else reject(new CommandError(`${argv.join(" ")}: ${problem ?? describe(result)}`, result));
    };
    child.stdout.setEncoding("utf8").on("data", (text: string) => (stdout += text));
    child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text));
    // A command may end without reading its input; what counts then is its exit code.
    child.stdin.on("error", () => undefined);
    child.stdin.end(input ?? "");
    child.once("error", (error) => {
      end(KILLED, error.message);
    });
    child.once("close", (code) => {
      end(code ?? KILLED, timedOut ? `no end after ${String(timeoutMs)} ms` : undefined);
    });
  });
}

function describe({ code, stdout, stderr }: CommandResult): string {
  return `exit code ${String(code)}: ${stderr.trim() || stdout.trim() || "no output"}`;
}
