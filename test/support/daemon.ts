import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { EngineClient } from "./engine-client.ts";
import { until } from "./until.ts";

/** The command, as built. */
export const MAIN = join(import.meta.dirname, "../../dist/main.js");

/** Where a daemon keeps its things. */
export interface Places {
  readonly socket: string;
  readonly stateDir: string;
}

/** The places of the only daemon that has a directory. */
export function placesIn(dir: string): Places {
  return { socket: join(dir, "tsnet.sock"), stateDir: join(dir, "state") };
}

/** How a daemon is started. */
export interface Start {
  /** Descriptor of a socket to hand over as systemd does (sd_listen_fds(3)). */
  readonly listening?: number;
  /** A daemon whose network namespace this one shares. */
  readonly beside?: Daemon;
  /** Shell commands that run before it; what they mount is for this daemon alone. */
  readonly prepare?: string;
  readonly logLevel?: string;
}

/** The daemon as built, in a network namespace of its own, with the engine's API where nobody answers. */
export class Daemon {
  readonly #child: ChildProcess;
  #out = "";
  #errors = "";

  constructor({ socket, stateDir }: Places, how: Start = {}) {
    const { listening, beside, prepare = "", logLevel = "info" } = how;
    const flags = {
      "--socket": socket,
      "--state-dir": stateDir,
      "--docker-socket": `${socket}.none`,
      "--system-bus": `${socket}.none`,
      "--log-level": logLevel,
    };
    // The PID is known only inside; neither unshare nor exec changes it.
    const handOver = listening === undefined ? "" : "export LISTEN_PID=$$ LISTEN_FDS=1";
    const namespace = beside
      ? ["nsenter", `--net=/proc/${beside.pid}/ns/net`]
      : ["unshare", "--net", "--mount"];
    const script = [prepare, handOver, 'exec "$@"'].filter(Boolean).join("\n");
    this.#child = spawn(
      "env",
      [
        ...namespace,
        "sh",
        "-c",
        script,
        "sh",
        process.execPath,
        MAIN,
        "daemon",
        ...Object.entries(flags).flat(),
      ],
      { stdio: ["ignore", "pipe", "pipe", ...(listening === undefined ? [] : [listening])] },
    );
    this.#child.stdout?.setEncoding("utf8").on("data", (text: string) => (this.#out += text));
    this.#child.stderr?.setEncoding("utf8").on("data", (text: string) => (this.#errors += text));
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  /** Exit status; undefined while it runs. A signal that ended it counts as 128 and its number. */
  get status(): number | undefined {
    if (this.#child.signalCode !== null) return 128;
    return this.#child.exitCode ?? undefined;
  }

  /** What it wrote on standard output: its log. */
  get out(): string {
    return this.#out;
  }

  /** What it wrote on standard error. */
  get errors(): string {
    return this.#errors;
  }

  /** Waits until it answers the engine's first request; fails at once if it ends. */
  async answers(socket: string): Promise<void> {
    await until(`tsnet daemon answers; it wrote ${this.#errors}`, async () => {
      if (this.status !== undefined) return true;
      const client = await EngineClient.open(socket);
      const reply = await client.call("Plugin.Activate");
      client.close();
      return reply.status === 200;
    });
    if (this.status !== undefined) throw new Error(`tsnet daemon ended: ${this.#errors}`);
  }

  /** Sends a signal. */
  signal(name: NodeJS.Signals): void {
    this.#child.kill(name);
  }

  /** Waits for its end. @returns its exit status */
  async ended(): Promise<number> {
    if (this.status === undefined) await once(this.#child, "close");
    return this.status ?? 0;
  }

  /** Ends it as a crash would. */
  async kill(): Promise<void> {
    this.signal("SIGKILL");
    await this.ended();
  }
}
