import { cpus, loadavg, release, totalmem } from "node:os";
import { run } from "../lab/command.ts";
import type { LabHost } from "../lab/host.ts";

/** What else runs on the machine, as one figure: processes that ran or wanted to, on average over the last minute. */
export function load(): string {
  return (loadavg()[0] ?? 0).toFixed(1);
}

/**
 * What the figures depend on, by name.
 *
 * @param loadBefore the load before anything was measured
 */
export async function machineFacts(host: LabHost, loadBefore: string): Promise<Record<string, string>> {
  const [processor] = cpus();
  const { stdout: iptables } = await run(["iptables", "--version"]);
  return {
    date: new Date().toISOString(),
    kernel: release(),
    processor: processor?.model ?? "unknown",
    cores: String(cpus().length),
    memory: `${String(Math.round(totalmem() / 2 ** 30))} GiB`,
    engine: host.engine?.version ?? "none",
    node: process.version,
    iptables: iptables.trim(),
    "load before": loadBefore,
    command: `npm run bench -- ${process.argv.slice(2).join(" ")}`.trim(),
  };
}
