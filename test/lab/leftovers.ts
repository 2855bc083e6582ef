import { existsSync, readFileSync } from "node:fs";
import { mkdtemp, readdir, readFile, rm, rmdir, stat, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { LabError } from "./command.ts";

/** Everything the lab makes on the machine (directories, cgroups) has a name that starts so. */
const PREFIX = "tsnet-lab-";

/** Parent of the namespaces' directories: a disk on every Debian, where /tmp and /run may be small tmpfs. */
const PARENT = "/var/tmp";

/** Root of the cgroup mounts, of version 1 (a directory per controller below it) or 2. */
const CGROUPS = "/sys/fs/cgroup";

/** After this time a directory without a record is nobody's that is just being made. */
const UNRECORDED_MS = 60_000;

/** Which process is meant, even after its number was given to another one: boot, PID and start time. */
export type ProcessId = string;

/** What a namespace's directory says about it, for other processes than the one that made it. */
export interface LabRecord {
  readonly name: string;
  /** Who stops it. Absent: it stays until `scripts/lab down`. */
  readonly owner?: ProcessId;
  /** The process that keeps it; its end is the end of everything inside. Absent while it is being made. */
  readonly holder?: ProcessId;
  /** Variables for commands in it. */
  readonly env: Readonly<Record<string, string>>;
  /** Facts for `scripts/lab status`. */
  readonly facts: Readonly<Record<string, string>>;
}

/** A namespace's directory with its record. */
export interface Recorded {
  readonly dir: string;
  readonly record: LabRecord;
}

/** Identity of a process, or undefined where there is none (a zombie is none). */
export function processId(pid: number): ProcessId | undefined {
  try {
    const stat = readFileSync(`/proc/${String(pid)}/stat`, "utf8");
    // proc_pid_stat(5): state is field 3 and start time field 22; the name before them may hold anything.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    if (fields[0] === "Z" || fields[0] === "X") return undefined;
    return `${readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim()}:${String(pid)}:${fields[19] ?? ""}`;
  } catch {
    return undefined;
  }
}

/** PID in an identity, if that very process is alive. */
export function alivePid(id: ProcessId): number | undefined {
  const pid = Number(id.split(":")[1]);
  return processId(pid) === id ? pid : undefined;
}

/** Makes a directory for a namespace with this record in it. */
export async function makeDirectory(record: LabRecord): Promise<string> {
  const dir = await mkdtemp(join(PARENT, `${PREFIX}${record.name}-`));
  await writeRecord({ dir, record });
  return dir;
}

/** Writes a namespace's record anew. */
export async function writeRecord({ dir, record }: Recorded): Promise<void> {
  await writeFile(join(dir, "record.json"), JSON.stringify(record));
}

/** Every namespace with a record on this machine, alive or not. */
export async function recorded(): Promise<Recorded[]> {
  const dirs = (await directories()).filter((dir) => existsSync(join(dir, "record.json")));
  const read = async (dir: string): Promise<Recorded> => ({
    dir,
    record: JSON.parse(await readFile(join(dir, "record.json"), "utf8")) as LabRecord,
  });
  return (await Promise.allSettled(dirs.map(read))).flatMap((result) =>
    result.status === "fulfilled" ? [result.value] : [],
  );
}

/**
 * Ends a namespace with everything in it and removes its cgroups and its directory. Nothing left is success.
 *
 * @throws {LabError} that lists what could not be removed
 */
export async function discard({ dir, record }: Recorded): Promise<void> {
  const problems: string[] = [];
  const pid = record.holder === undefined ? undefined : alivePid(record.holder);
  if (pid !== undefined) {
    process.kill(pid, "SIGKILL");
    // The holder is PID 1 inside: the kernel lets it go only after all the others (pid_namespaces(7)).
    if (!(await until(() => processId(pid) !== record.holder))) problems.push(`process ${String(pid)}`);
  }
  for (const cgroup of await cgroups(basename(dir))) {
    if (!(await until(() => removeCgroup(cgroup)))) problems.push(cgroup);
  }
  await rm(dir, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 }).catch((error: unknown) => {
    problems.push(`${dir} (${String(error)})`);
  });
  if (problems.length > 0) throw new LabError(`cannot clean ${record.name}: ${problems.join(", ")}`);
}

/**
 * Removes what earlier runs left: namespaces whose owner is gone, directories of no one, and, if asked, those that
 * were made to stay. What belongs to a living process is left alone.
 *
 * @returns the names of what was removed
 */
export async function sweep({ detached }: { detached: boolean }): Promise<string[]> {
  const swept: string[] = [];
  for (const { dir, record } of await recorded()) {
    if (record.owner === undefined ? !detached : alivePid(record.owner) !== undefined) continue;
    await discard({ dir, record });
    swept.push(record.name);
  }
  for (const dir of await directories()) {
    const age = Date.now() - (await stat(dir).catch(() => ({ mtimeMs: Date.now() }))).mtimeMs;
    if (existsSync(join(dir, "record.json")) || age < UNRECORDED_MS) continue;
    await rm(dir, { recursive: true, force: true });
    swept.push(basename(dir));
  }
  return swept;
}

async function directories(): Promise<string[]> {
  return (await readdir(PARENT)).filter((name) => name.startsWith(PREFIX)).map((name) => join(PARENT, name));
}

/** Directories of that name in every hierarchy of cgroups. */
async function cgroups(name: string): Promise<string[]> {
  const hierarchies = await readdir(CGROUPS).catch(() => []);
  return ["", ...hierarchies]
    .map((hierarchy) => join(CGROUPS, hierarchy, name))
    .filter((dir) => existsSync(dir));
}

/** @returns whether it is gone; a cgroup stays busy for a moment after its last process */
async function removeCgroup(dir: string): Promise<boolean> {
  try {
    for (const entry of await readdir(dir, { withFileTypes: true })) {
      if (entry.isDirectory()) await removeCgroup(join(dir, entry.name));
    }
    await rmdir(dir);
  } catch {
    // Decided by what is there now.
  }
  return !existsSync(dir);
}

/** @returns whether the condition came true within ten seconds */
async function until(condition: () => boolean | Promise<boolean>): Promise<boolean> {
  const deadline = Date.now() + 10_000;
  while (!(await condition())) {
    if (Date.now() > deadline) return false;
    await sleep(20);
  }
  return true;
}
