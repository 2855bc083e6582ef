import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync } from "node:fs";
import { join } from "node:path";
import { type CommandOptions, type CommandResult, LabError, run } from "./command.ts";
import {
  alivePid,
  discard,
  makeDirectory,
  processId,
  type LabRecord,
  type Recorded,
  sweep,
  writeRecord,
} from "./leftovers.ts";

/** How a namespace is made. */
export interface NamespaceOptions {
  /** Host name inside, and how people and errors call it. */
  readonly name: string;
  /** Name server in its /etc/resolv.conf. */
  readonly resolver?: string | undefined;
  /** It stays after this process, until `scripts/lab down`. */
  readonly detached?: boolean | undefined;
}

const HOLDER = join(import.meta.dirname, "holder.sh");

let swept: Promise<unknown> | undefined;

/**
 * Network, mount, PID and UTS namespaces kept by one process. That process dies with the one that started it, and
 * everything inside dies with it.
 */
export class Namespace {
  /** Directory on the machine that is this namespace's own; `run` in it is the inside's /run. */
  readonly dir: string;
  /** PID, as the machine sees it, of the process that holds the namespaces. */
  readonly pid: number;
  private record: LabRecord;

  private constructor(dir: string, pid: number, record: LabRecord) {
    this.dir = dir;
    this.pid = pid;
    this.record = record;
  }

  /** Makes namespaces with loopback up and nothing else, after removing what dead processes left of theirs. */
  static async start({ name, resolver, detached = false }: NamespaceOptions): Promise<Namespace> {
    swept ??= sweep({ detached: false });
    await swept;
    const owner = detached ? {} : { owner: processId(process.pid) ?? "" };
    const record = { name, ...owner, env: {}, facts: {} };
    const dir = await makeDirectory(record);
    try {
      const pid = await hold(dir, name, resolver ?? "", detached);
      const namespace = new Namespace(dir, pid, record);
      await namespace.remember({ holder: processId(pid) ?? "" });
      return namespace;
    } catch (error) {
      await discard({ dir, record });
      throw error;
    }
  }

  /** A namespace that another process made, or undefined where it is gone. */
  static attach({ dir, record }: Recorded): Namespace | undefined {
    const pid = record.holder === undefined ? undefined : alivePid(record.holder);
    return pid === undefined ? undefined : new Namespace(dir, pid, record);
  }

  /** Its name, as given at the start. */
  get name(): string {
    return this.record.name;
  }

  /** Variables that commands in it get beside those of this process. */
  get env(): Readonly<Record<string, string>> {
    return this.record.env;
  }

  /** What it told other processes about itself. */
  get facts(): Readonly<Record<string, string>> {
    return this.record.facts;
  }

  /** Changes its record, so that other processes see it. */
  async remember(change: Partial<LabRecord>): Promise<void> {
    this.record = { ...this.record, ...change };
    await writeRecord({ dir: this.dir, record: this.record });
  }

  /** The command line that runs a command inside. */
  enter(argv: readonly string[]): string[] {
    return ["nsenter", `--target=${String(this.pid)}`, "--mount", "--net", "--pid", "--uts", "--", ...argv];
  }

  /** Runs a command inside to its end. */
  async exec(argv: readonly string[], options: CommandOptions = {}): Promise<CommandResult> {
    return await run(this.enter(argv), { ...options, env: { ...this.env, ...options.env } });
  }

  /** Starts a command inside and does not wait; its output is added to a file. */
  spawn(
    argv: readonly string[],
    options: { log: string; env?: Readonly<Record<string, string>> },
  ): ChildProcess {
    const [command = "", ...args] = this.enter(argv);
    const log = openSync(options.log, "a");
    const env = { ...process.env, ...this.env, ...options.env };
    const child = spawn(command, args, { detached: true, env, stdio: ["ignore", log, log] });
    closeSync(log);
    child.unref();
    return child;
  }

  /**
   * Ends everything inside and removes the directory.
   *
   * @throws {LabError} that lists what could not be removed
   */
  async stop(): Promise<void> {
    await discard({ dir: this.dir, record: this.record });
  }
}

async function hold(dir: string, name: string, resolver: string, detached: boolean): Promise<number> {
  const unshare = ["unshare", "--mount", "--net", "--pid", "--uts", "--fork", "--kill-child"];
  const [command = "", ...args] = [
    ...(detached ? [] : ["setpriv", "--pdeathsig=KILL"]),
    ...[...unshare, "bash", HOLDER, dir, name, resolver],
  ];
  const child = spawn(command, args, { detached: true, stdio: ["ignore", "pipe", "pipe"] });
  child.unref();
  let errors = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => (errors += text));
  // unshare keeps the pipes open, so their end says nothing: the holder's one line does, or unshare's own end.
  const line = await Promise.race([once(child.stdout.setEncoding("utf8"), "data"), once(child, "close")]);
  child.stdout.destroy();
  child.stderr.destroy();
  const pid = /^ready (\d+)$/m.exec(String(line[0]))?.[1];
  if (pid === undefined)
    throw new LabError(`cannot make namespace ${name}: ${errors.trim() || "no reason given"}`);
  return Number(pid);
}
