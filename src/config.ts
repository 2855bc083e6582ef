import { z } from "zod";
import { Publish } from "./backends/bridge-options.ts";
import { InvalidError } from "./errors.ts";

/** The daemon's own settings: a flag, else its `TSNET_…` variable, else the default here. */
export const Config = z.object({
  socket: z
    .string()
    .default("/run/docker/plugins/tsnet.sock")
    .meta({ description: "where the engine finds the plugin" }),
  stateDir: z.string().default("/var/lib/tsnet").meta({ description: "where networks are remembered" }),
  dockerSocket: z.string().default("/var/run/docker.sock").meta({ description: "the engine's API" }),
  systemBus: z
    .string()
    .default("/run/dbus/system_bus_socket")
    .meta({ description: "where firewalld is asked to let containers pass, if it runs" }),
  publish: Publish.prefault("all").meta({
    description: "host address of published ports: loopback, all, or an address",
  }),
  logLevel: z
    .enum(["debug", "info", "warn", "error"])
    .default("info")
    .meta({ description: "debug shows every step" }),
});
export type Config = z.infer<typeof Config>;

/** `stateDir` as a variable of the environment: `TSNET_STATE_DIR`. */
export function variable(setting: string): string {
  return `TSNET_${setting.replace(/[A-Z]/g, "_$&").toUpperCase()}`;
}

/** `stateDir` as a flag of the command line: `--state-dir`. */
export function flag(setting: string): string {
  return `--${setting.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}

/**
 * Settles the settings.
 *
 * @param flags what the command line gave, by setting
 * @throws {InvalidError} that names the setting and what it may be
 */
export function settle(flags: Readonly<Record<string, unknown>>, environment: NodeJS.ProcessEnv): Config {
  const given = Object.keys(Config.shape).map((key) => [key, flags[key] ?? environment[variable(key)]]);
  const parsed = Config.safeParse(Object.fromEntries(given));
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  const setting = String(issue?.path[0]);
  throw new InvalidError(`${flag(setting)} (${variable(setting)}): ${issue?.message ?? "cannot be read"}`);
}
