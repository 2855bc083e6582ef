import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { CACHE, install, tree } from "../lab/debian.ts";
import { NEWEST, engine } from "../lab/engines.ts";
import { boxTar } from "../lab/image.ts";

/*
 * boot.ts [--without-ipv6] DIRECTORY COMMAND…: runs a command as root on the kernel of Debian 12, in user mode (user-mode-linux), with what
 * the kernel of this machine may have been built without. It sees this machine's files, and what it changes there is
 * gone with it, but for what is in DIRECTORY. It has a network namespace of its own that leads nowhere.
 */
const words = process.argv.slice(2);
const ipv6 = words[0] === "--without-ipv6" ? "disable=1" : "";
const [directory = "", ...command] = words.slice(ipv6 ? 1 : 0);
const { root } = await tree("user-mode-linux", { bookworm: ["user-mode-linux", "kmod"] });
// From inside nothing can be fetched. A test that needs the engine is skipped without it.
await install("conntrack", "iputils-ping", "socat");
await Promise.all([boxTar(), engine(NEWEST).catch(() => undefined)]);
const dir = await mkdtemp(join(directory, "debian-"));
try {
  process.exitCode = await boot();
} finally {
  await rm(dir, { recursive: true });
}

/** @returns the command's exit code */
async function boot(): Promise<number> {
  const { HOME = "/root", PATH = "" } = process.env;
  const variables = Object.entries({ HOME, PATH, TSNET_LAB_CACHE: CACHE }).map(
    ([name, value]) => `${name}=${quoted(value)}`,
  );
  const lines = [
    `cd ${quoted(process.cwd())}`,
    `export ${variables.join(" ")}`,
    command.map(quoted).join(" "),
  ];
  await writeFile(join(dir, "command"), `${lines.join("\n")}\n`);
  const kernel = [
    join(root, "usr/bin/linux.uml"),
    ...["rootfstype=hostfs", "ro", "mem=3G", "quiet", "loglevel=0", "rcupdate.rcu_expedited=1"],
    ...["con=null", "ssl0=null,fd:1", `uml_dir=${dir}`],
    ...[`init=${join(import.meta.dirname, "init.sh")}`, `TREE=${root}`, `SHARED=${directory}`, `JOB=${dir}`],
    `IPV6=${ipv6}`,
  ];
  // All of its processes end with this one, however that ends.
  const child = spawn(
    "setpriv",
    ["--pdeathsig=KILL", "unshare", "--pid", "--fork", "--kill-child=KILL", ...kernel],
    {
      stdio: ["ignore", "inherit", "ignore"],
    },
  );
  await once(child, "exit");
  const status = await readFile(join(dir, "status"), "utf8").catch(() => "");
  if (status === "") throw new Error("the kernel in user mode ended before the command did");
  return Number(status);
}

function quoted(word: string): string {
  return `'${word.replaceAll("'", "'\\''")}'`;
}
