import type { Logger } from "pino";
import type * as z from "zod";
import { InvalidError, TsnetError, firstIssue } from "../errors.ts";
import type { Firewall } from "../firewall/firewall.ts";
import type { Host } from "../kernel/host.ts";
import type { Knowledge } from "../knowledge.ts";
import type { Network } from "../model.ts";
import type { State } from "../store/state.ts";
import type { Backend } from "./backend.ts";
import { BridgeOptions, type PublishDefault } from "./bridge-options.ts";
import { BridgeBackend } from "./bridge.ts";
import { MacvlanOptions } from "./macvlan-options.ts";
import { MacvlanBackend } from "./macvlan.ts";
import type { Publisher } from "./publisher.ts";

/** Every backend by the name that `-o backend=` takes, with its options. A new one is added here and below. */
export const OPTIONS = { bridge: BridgeOptions, macvlan: MacvlanOptions } as const;

/** The backends of one daemon. */
export type Backends = Readonly<Record<string, Backend>>;

const DEFAULT: keyof typeof OPTIONS = "bridge";

/**
 * Builds every backend.
 *
 * @param publishDefault host addresses for ports of networks that name none
 */
export function createBackends(
  host: Host,
  firewall: Firewall,
  publisher: Publisher,
  publishDefault: PublishDefault,
  state: State,
  engine: Pick<Knowledge, "knowsBridge">,
): Backends {
  return {
    bridge: new BridgeBackend(host, firewall, publisher, publishDefault, state, engine),
    macvlan: new MacvlanBackend(host, firewall, state),
  } satisfies Record<keyof typeof OPTIONS, Backend>;
}

/** A network's backend. */
export function backendOf(backends: Backends, { id, backend }: Pick<Network, "id" | "backend">): Backend {
  const there = backendCalled(backends, backend);
  if (there) return there;
  throw new TsnetError(
    "unsupported",
    `network ${id} is of backend "${backend}", but this tsnet has ${Object.keys(backends).join(" and ")}; start the one that made it`,
  );
}

function backendCalled(backends: Backends, name: string): Backend | undefined {
  return Object.hasOwn(backends, name) ? backends[name] : undefined;
}

function optionsOf(backend: Backend): string[] {
  return Object.keys((backend.options as unknown as z.ZodObject).shape);
}

/** Options of the engine's that tsnet has no use for: newer engines add some by themselves. */
const ENGINE_PREFIX = "com.docker.network.";

/**
 * Reads `-o` options with the schema of the backend that they name.
 *
 * @throws {InvalidError} that lists the known options, for one that is not known, or names the backend that it is for
 */
export function parseOptions(
  backends: Backends,
  given: Readonly<Record<string, string>>,
  log: Logger,
): { name: string; backend: Backend; options: unknown } {
  const name = given["backend"] ?? DEFAULT;
  const backend = backendCalled(backends, name);
  if (!backend)
    throw new TsnetError(
      "unsupported",
      `unknown backend "${name}"; choose ${Object.keys(backends).join(" or ")}`,
    );
  const known = optionsOf(backend);
  const unknown = Object.keys(given).filter((key) => !known.includes(key));
  const refused = unknown.find((key) => !key.startsWith(ENGINE_PREFIX));
  if (refused !== undefined) {
    const [other] = Object.entries(backends).find(([, one]) => optionsOf(one).includes(refused)) ?? [];
    if (other)
      throw new InvalidError(`option ${refused} is for backend ${other}, not ${name}: -o backend=${other}`);
    throw new InvalidError(`unknown option ${refused}; backend ${name} takes ${known.join(", ")}`);
  }
  if (unknown.length > 0) log.warn({ options: unknown }, "options of the engine that have no effect here");
  const parsed = backend.options.safeParse(
    Object.fromEntries(Object.entries(given).filter(([key]) => known.includes(key))),
  );
  // On record an option that was given as nothing is none.
  if (parsed.success) return { name, backend, options: JSON.parse(JSON.stringify(parsed.data)) as unknown };
  const { path, message } = firstIssue(parsed.error);
  throw new InvalidError(`option ${path} ${message}`);
}
