import { join } from "node:path";
import { CommandError, LabError } from "./command.ts";
import { type Suite, tree } from "./debian.ts";

/** Release lines of the engine that the lab runs. */
export const ENGINE_LINES = ["20.10", "26.1", "28.5"] as const;

/** Release line of an engine, as `docker version` begins. */
export type EngineLine = (typeof ENGINE_LINES)[number];

/** The newest of them, for what an engine makes no difference to. */
export const NEWEST: EngineLine = ENGINE_LINES[2];

/** A Docker engine that lies unpacked on this machine and can be run from there. */
export interface Engine {
  readonly line: EngineLine;
  /** What it really is, e.g. `28.5.2`. */
  readonly version: string;
  /** Directories with dockerd, containerd, runc, docker and their helpers, to be put before PATH. */
  readonly path: readonly string[];
  /** Directory with shared libraries a small machine may lack, for LD_LIBRARY_PATH. */
  readonly libraries: string;
}

/** The engine cannot be fetched; the message says why in one line. */
export class EngineUnavailableError extends LabError {
  override readonly name = "EngineUnavailableError";
}

const SUITES: Readonly<Record<EngineLine, Suite>> = { "20.10": "bookworm", "26.1": "trixie", "28.5": "sid" };

/** Until bookworm's, the client was part of docker.io. */
const PACKAGES: Readonly<Record<EngineLine, readonly string[]>> = {
  "20.10": ["docker.io", "containerd"],
  "26.1": ["docker.io", "containerd", "docker-cli"],
  "28.5": ["docker.io", "containerd", "docker-cli"],
};

/** Needs no newer C library than bookworm's, unlike the runc of trixie and sid. */
const RUNTIME = ["runc", "tini", "libseccomp2", "libdevmapper1.02.1"];

/**
 * An engine of a release line from Debian's packages, out of the cache or fetched into it.
 *
 * @throws {EngineUnavailableError} where the packages cannot be fetched
 */
export async function engine(line: EngineLine): Promise<Engine> {
  try {
    const suite = SUITES[line];
    const runtime = suite === "bookworm" ? [...RUNTIME, ...PACKAGES[line]] : RUNTIME;
    const { root, versions } = await tree(`engine-${line}`, { [suite]: PACKAGES[line], bookworm: runtime });
    return {
      line,
      version: (versions["docker.io"] ?? line).replace(/^\d+:|[+~-].*$/g, ""),
      path: [join(root, "usr/bin"), join(root, "usr/sbin")],
      libraries: join(root, "usr/lib", multiarch()),
    };
  } catch (error) {
    throw new EngineUnavailableError(`engine ${line} cannot be fetched: ${reason(error)}`, { cause: error });
  }
}

/** The first thing apt complained about, if it was apt that failed. */
function reason(error: unknown): string {
  const complaint = error instanceof CommandError ? /^E: .*/m.exec(error.result.stderr)?.[0] : undefined;
  return (complaint ?? (error instanceof Error ? error.message : String(error))).replace(/\s*\n\s*/g, "; ");
}

/** Debian's directory name for this architecture's libraries. */
function multiarch(): string {
  return process.arch === "arm64" ? "aarch64-linux-gnu" : "x86_64-linux-gnu";
}

/**
 * A release line from what people type: `28`, `28.5`, `20`, `20.10`.
 *
 * @throws {LabError} for anything else, with the lines there are
 */
export function parseEngineLine(text: string): EngineLine {
  const line = ENGINE_LINES.find((known) => known === text || known.split(".")[0] === text);
  if (line === undefined) throw new LabError(`no engine ${text}; there are ${ENGINE_LINES.join(", ")}`);
  return line;
}
