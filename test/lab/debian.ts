import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdir, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { LabError, run } from "./command.ts";

/** Where downloaded packages and what is made of them is kept, outside the repository. */
export const CACHE = process.env["TSNET_LAB_CACHE"] ?? "/var/cache/tsnet-lab";

/** Debian's releases that the lab takes packages from. */
export type Suite = "bookworm" | "trixie" | "sid";

/** Packages of one or more releases, unpacked into one directory, not installed. */
export interface Tree {
  /** Absolute path; `usr/bin` and so on are below it. */
  readonly root: string;
  /** Package name to its full Debian version. */
  readonly versions: Readonly<Record<string, string>>;
}

/** How often a download is tried. */
const TRIES = 3;

/** Debian's own keyring (package debian-archive-keyring). */
const KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg";

/** Releases by which a Debian source is told from others in the machine's apt configuration. */
const RELEASES = new Set(
  "bullseye bookworm trixie forky duke sid oldoldstable oldstable stable testing unstable".split(" "),
);

/**
 * Packages unpacked side by side under a name in the cache; fetched where they are not there yet.
 * Two processes may call at once: the second one waits.
 *
 * @param packages release to package names, e.g. `{ bookworm: ["runc"] }`
 * @throws {LabError} where apt has no Debian source or cannot download
 */
export async function tree(
  name: string,
  packages: Readonly<Partial<Record<Suite, readonly string[]>>>,
): Promise<Tree> {
  const root = join(CACHE, name);
  const manifest = join(root, "versions.json");
  if (!existsSync(manifest)) {
    await withLock(name, async () => {
      if (!existsSync(manifest)) await build(root, packages);
    });
  }
  return { root, versions: JSON.parse(await readFile(manifest, "utf8")) as Record<string, string> };
}

/**
 * Runs an action while no other process runs one under the same name in this cache.
 * The lock is held by a child process and falls with this one, however it ends.
 */
export async function withLock<T>(name: string, action: () => Promise<T>): Promise<T> {
  await mkdir(CACHE, { recursive: true });
  const lock = spawn("flock", [join(CACHE, `${name}.lock`), "sh", "-c", "echo held; exec cat"], {
    stdio: ["pipe", "pipe", "ignore"],
  });
  const released = once(lock, "exit");
  await Promise.race([once(lock.stdout, "data"), released]);
  if (lock.exitCode !== null) throw new LabError(`flock ${name} in ${CACHE}: cannot lock`);
  try {
    return await action();
  } finally {
    lock.stdin.end();
    await released;
  }
}

/** Installs Debian packages that the machine does not have, with its own apt. Does nothing where all are there. */
export async function install(...packages: string[]): Promise<void> {
  if ((await missing(packages)).length === 0) return;
  await withLock("install", async () => {
    const names = await missing(packages);
    if (names.length > 0) await aptInstall(names);
  });
}

async function missing(packages: readonly string[]): Promise<string[]> {
  const { stdout } = await run(["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", ...packages], {
    allowFailure: true,
  });
  return packages.filter((name) => !stdout.includes(`${name} installed\n`));
}

async function aptInstall(packages: readonly string[]): Promise<void> {
  const env = { DEBIAN_FRONTEND: "noninteractive" };
  const command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", ...packages];
  const first = await run(command, { allowFailure: true, timeoutMs: 300_000, env });
  if (first.code === 0) return;
  await run(["apt-get", "update", "-qq"], { timeoutMs: 300_000 });
  await run(command, { timeoutMs: 300_000, env });
}

async function build(
  root: string,
  packages: Readonly<Partial<Record<Suite, readonly string[]>>>,
): Promise<void> {
  const work = `${root}.part`;
  await rm(work, { recursive: true, force: true });
  const versions: Record<string, string> = {};
  for (const [suite, names] of Object.entries(packages)) {
    const debs = join(work, "debs", suite);
    await mkdir(debs, { recursive: true });
    await retry(() => download(suite, names, debs));
    for (const deb of await readdir(debs)) {
      await run(["dpkg-deb", "-x", join(debs, deb), work]);
      const { stdout } = await run(["dpkg-deb", "-f", join(debs, deb), "Package", "Version"]);
      const { name, version } = /^Package: (?<name>\S+)\nVersion: (?<version>\S+)/.exec(stdout)?.groups ?? {};
      if (name !== undefined && version !== undefined) versions[name] = version;
    }
  }
  await rm(join(work, "debs"), { recursive: true });
  await writeFile(join(work, "versions.json"), JSON.stringify(versions, undefined, 2));
  // Only a complete tree ever has the final name.
  await rm(root, { recursive: true, force: true });
  await rename(work, root);
}

async function download(suite: string, names: readonly string[], into: string): Promise<void> {
  const apt = join(CACHE, "apt", suite);
  await mkdir(join(apt, "lists", "partial"), { recursive: true });
  const signedBy = existsSync(KEYRING) ? `[signed-by=${KEYRING}] ` : "";
  await writeFile(join(apt, "sources.list"), `deb ${signedBy}${await mirror()} ${suite} main\n`);
  const options = [
    `Dir::Etc::sourcelist=${join(apt, "sources.list")}`,
    "Dir::Etc::sourceparts=/dev/null",
    "Dir::Etc::preferences=/dev/null",
    "Dir::Etc::preferencesparts=/dev/null",
    `Dir::State::lists=${join(apt, "lists")}`,
    `Dir::Cache=${apt}`,
    "APT::Sandbox::User=root",
  ].flatMap((option) => ["-o", option]);
  await withLock(`apt-${suite}`, async () => {
    await run(["apt-get", ...options, "update", "-qq", "--error-on=any"], { timeoutMs: 120_000 });
    await run(["apt-get", ...options, "download", "-qq", ...names], { timeoutMs: 300_000, cwd: into });
  });
}

/** Address of the machine's Debian mirror, as its own apt is set up. */
async function mirror(): Promise<string> {
  const { stdout } = await run([
    "apt-get",
    "indextargets",
    "--format",
    "$(REPO_URI) $(RELEASE) $(COMPONENT)",
    "Identifier: Packages",
  ]);
  const uris = stdout
    .split("\n")
    .map((line) => line.split(" "))
    .filter(([, release, component]) => RELEASES.has(release ?? "") && component === "main")
    .map(([uri]) => uri ?? "");
  // Others (PostgreSQL's, HashiCorp's) also name their releases after Debian's.
  const uri = uris.find((candidate) => /\/debian\/?$/.test(candidate)) ?? uris[0];
  if (uri === undefined) throw new LabError("apt has no source for Debian's main");
  return uri;
}

async function retry(action: () => Promise<void>): Promise<void> {
  for (let left = TRIES - 1; ; left -= 1) {
    try {
      await action();
      return;
    } catch (error) {
      if (left === 0) throw error;
    }
  }
}
