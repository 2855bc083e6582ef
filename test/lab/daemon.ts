import type { ChildProcess } from "node:child_process";
import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { LabError } from "./command.ts";
import type { Namespace } from "./namespace.ts";

/** What a daemon is and when it is there. */
export interface DaemonOptions {
  /** For the log file, the PID file and errors. */
  readonly name: string;
  readonly env?: Readonly<Record<string, string>>;
  /** Whether it answers. Errors count as no. */
  readonly ready: () => Promise<unknown>;
  /** How long it may take to answer. */
  readonly readyTimeoutMs: number;
}

/** How long a daemon may take to end after TERM before it gets KILL. */
const STOP_TIMEOUT_MS = 30_000;

/** Lines of the log's beginning (where a wrong option is named) and of its end in an error. */
const HEAD_LINES = 2;
const TAIL_LINES = 18;

/** A program in the background of a namespace, with a log; `start` returns once it answers, `stop` once it is gone. */
export class Daemon {
  private readonly namespace: Namespace;
  private readonly options: DaemonOptions;
  private child: ChildProcess | undefined;

  constructor(namespace: Namespace, options: DaemonOptions) {
    this.namespace = namespace;
    this.options = options;
  }

  /** Everything it wrote since the namespace was made, over all its starts. */
  async log(): Promise<string> {
    return await readFile(this.file("log"), "utf8").catch(() => "");
  }

  /** Whether it was started and has not ended. */
  isRunning(): boolean {
    return this.child?.exitCode === null && this.child.signalCode === null;
  }

  /**
   * Starts it and waits until it answers.
   *
   * @throws {LabError} with the end of the log where it ends or does not answer in time
   */
  async start(argv: readonly string[]): Promise<void> {
    const { name, env = {}, ready, readyTimeoutMs } = this.options;
    if (this.isRunning()) throw new LabError(`${name} runs already in ${this.namespace.name}`);
    const before = (await this.log()).length;
    await rm(this.file("pid"), { force: true });
    // The PID inside: a signal to nsenter would not reach the daemon.
    const wrapped = ["sh", "-c", 'echo $$ >"$0"; exec "$@"', this.file("pid"), ...argv];
    this.child = this.namespace.spawn(wrapped, { log: this.file("log"), env });
    const deadline = Date.now() + readyTimeoutMs;
    while (!(await succeeds(ready()))) {
      const reason = !this.isRunning() ? "ended" : Date.now() > deadline ? "does not answer" : undefined;
      if (reason !== undefined) {
        await this.kill();
        const log = excerpt((await this.log()).slice(before));
        throw new LabError(`${name} in ${this.namespace.name} ${reason}; its log:\n${log}`);
      }
      await sleep(25);
    }
  }

  /** Ends it as a service manager would; it gets KILL, and that is an error, if it has not ended in time. */
  async stop(): Promise<void> {
    await this.signal("TERM");
    if (await this.gone(STOP_TIMEOUT_MS)) return;
    await this.kill();
    const { options, namespace } = this;
    const log = excerpt(await this.log());
    throw new LabError(
      `${options.name} in ${namespace.name} had to be killed: no end after TERM; its log:\n${log}`,
    );
  }

  /** Ends it as a crash would. */
  async kill(): Promise<void> {
    await this.signal("KILL");
    await this.gone(STOP_TIMEOUT_MS);
  }

  private async signal(signal: "TERM" | "KILL"): Promise<void> {
    if (!this.isRunning()) return;
    const pid = await readFile(this.file("pid"), "utf8").catch(() => "");
    if (pid.trim() === "") return;
    await this.namespace.exec(["sh", "-c", 'kill -s "$0" "$1"', signal, pid.trim()], { allowFailure: true });
  }

  private async gone(timeoutMs: number): Promise<boolean> {
    const deadline = Date.now() + timeoutMs;
    while (this.isRunning() && Date.now() < deadline) await sleep(10);
    return !this.isRunning();
  }

  private file(extension: string): string {
    return join(this.namespace.dir, `${this.options.name}.${extension}`);
  }
}

async function succeeds(attempt: Promise<unknown>): Promise<boolean> {
  return await attempt.then(
    () => true,
    () => false,
  );
}

function excerpt(log: string): string {
  const lines = log.trimEnd().split("\n");
  if (lines.length <= HEAD_LINES + TAIL_LINES) return lines.join("\n");
  return [...lines.slice(0, HEAD_LINES), "…", ...lines.slice(-TAIL_LINES)].join("\n");
}
