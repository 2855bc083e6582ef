import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { type CommandOptions, run } from "../lab/command.ts";
import type { LabHost } from "../lab/host.ts";

/** A network namespace in which the machine's tools are run. */
export interface Place {
  /** Path of the namespace as the machine sees it. */
  readonly netns: string;
}

/** A host's own namespace. */
export function onHost(host: LabHost): Place {
  return { netns: `/proc/${String(host.pid)}/ns/net` };
}

/** A running container's. */
export async function inContainer(host: LabHost, container: string): Promise<Place> {
  const { State: state } = await host.api.getContainer(container).inspect();
  // The engine counts PIDs as its host does, and the host's /proc is seen through its root.
  return { netns: `/proc/${String(host.pid)}/root/proc/${String(state.Pid)}/ns/net` };
}

/** Runs a command there to its end. @returns its standard output */
export async function runIn(
  { netns }: Place,
  argv: readonly string[],
  options: CommandOptions = {},
): Promise<string> {
  return (await run(["nsenter", `--net=${netns}`, "--", ...argv], options)).stdout;
}

/** A program that runs there until it is stopped, or this process dies. */
export class Server {
  readonly #child: ChildProcess;

  constructor({ netns }: Place, argv: readonly string[]) {
    const command = ["--pdeathsig=KILL", "nsenter", `--net=${netns}`, "--", ...argv];
    this.#child = spawn("setpriv", command, { stdio: "ignore" });
  }

  /** Ends it. */
  async stop(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const gone = once(this.#child, "exit");
    this.#child.kill("SIGKILL");
    await gone;
  }
}
