import * as z from "zod";
import { Publish } from "./backends/bridge-options.ts";
import { InvalidError, firstIssue } from "./errors.ts";

/** Bytes of a socket's path (sun_path, unix(7)) without the zero that ends it: Node cuts off what is beyond. */
const SOCKET_PATH_BYTES = 107;

const path = () => z.string().min(1, "must not be empty");
const socketPath = () =>
  path().refine((text) => Buffer.byteLength(text) <= SOCKET_PATH_BYTES, {
    error: `is longer than the ${String(SOCKET_PATH_BYTES)} bytes that a socket's path may have`,
  });

/** The daemon's own settings: a flag, else its `TSNET_…` variable, else the default here. */
export const Config = z.object({
  socket: socketPath()
    .default("/run/docker/plugins/tsnet.sock")
    .meta({ description: "Unix socket on which the engine finds the plugin" }),
  stateDir: path().default("/var/lib/tsnet").meta({ description: "directory in which networks are kept" }),
  dockerSocket: socketPath()
    .default("/var/run/docker.sock")
    .meta({ description: "Unix socket of the engine's API" }),
  systemBus: socketPath().default("/run/dbus/system_bus_socket").meta({
    description: "Unix socket of the D-Bus system bus, to ask firewalld, if it runs, to admit containers",
  }),
  publish: Publish.prefault("all").meta({
    description: "host address for published ports: loopback, all, or an address",
  }),
  logLevel: z
    .enum(["debug", "info", "warn", "error"], {
      error: ({ input }) => `is "${String(input)}", but must be debug, info, warn or error`,
    })
    .default("info")
    .meta({ description: "debug, info, warn or error; debug logs every step" }),
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
 * Reads the settings: of each the flag, else the variable, else the default.
 *
 * @param flags what the command line gave, by setting
 * @throws {InvalidError} that names the setting and what it may be
 */
export function readSettings(
  flags: Readonly<Record<string, unknown>>,
  environment: NodeJS.ProcessEnv,
): Config {
  const settings = Object.keys(Config.shape) as (keyof Config)[];
  const read = settings.map((setting) => [setting, readSetting(setting, flags[setting], environment)]);
  return Object.fromEntries(read) as Config;
}

/**
 * Reads one setting. A variable that is empty is none, as units and compose files have it that have no value for it.
 *
 * @param given what the command line gave, if it did
 * @throws {InvalidError} that names the setting and what it may be
 */
export function readSetting<Setting extends keyof Config>(
  setting: Setting,
  given: unknown,
  environment: NodeJS.ProcessEnv,
): Config[Setting] {
  const inherited = environment[variable(setting)];
  const parsed = Config.shape[setting].safeParse(given ?? (inherited === "" ? undefined : inherited));
  if (parsed.success) return parsed.data as Config[Setting];
  throw new InvalidError(`${flag(setting)} (${variable(setting)}): ${firstIssue(parsed.error).message}`);
}
