import { existsSync } from "node:fs";
import { copyFile, mkdir, rename, rm, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { run } from "./command.ts";
import { CACHE, tree, withLock } from "./debian.ts";

/** Name of the image that every lab engine has. Its default command sleeps, and ends at once when it is stopped. */
export const BOX = "tsnet/box:latest";

/** PID 1 ignores a TERM it has no trap for, and `docker stop` would then take ten seconds. */
const COMMAND = ["sh", "-c", "trap exit TERM; sleep infinity & wait"];

/** Arguments of `docker` that make the image from the tar. */
export function importBox(tar: string): string[] {
  return ["import", "--change", `CMD ${JSON.stringify(COMMAND)}`, tar, BOX];
}

/**
 * Path of a tar with a root file system: Debian's busybox-static with a link for each applet. Made once, then cached.
 * Its `wget` and whatever else resolves names crashes (a static C library has no name service): use the machine's
 * tools in the container's network namespace instead (`LabHost.inContainer`).
 */
export async function boxTar(): Promise<string> {
  const tar = join(CACHE, "box.tar");
  if (!existsSync(tar)) {
    await withLock("box-tar", async () => {
      if (!existsSync(tar)) await build(tar);
    });
  }
  return tar;
}

async function build(tar: string): Promise<void> {
  const { root: packages } = await tree("busybox", { bookworm: ["busybox-static"] });
  const busybox = join(packages, "bin/busybox");
  const root = join(CACHE, "box.part");
  await rm(root, { recursive: true, force: true });
  for (const directory of ["bin", "dev", "etc", "proc", "root", "sys", "tmp", "usr/bin", "var"]) {
    await mkdir(join(root, directory), { recursive: true });
  }
  await copyFile(busybox, join(root, "bin/busybox"));
  const { stdout } = await run([busybox, "--list"]);
  for (const applet of stdout.split("\n").filter((name) => name !== "" && name !== "busybox")) {
    await symlink("busybox", join(root, "bin", applet));
  }
  await writeFile(join(root, "etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n");
  await writeFile(join(root, "etc/group"), "root:x:0:\n");
  await run(["chmod", "1777", join(root, "tmp")]);
  await run(["tar", "-C", root, "--owner=0", "--group=0", "--sort=name", "-cf", `${tar}.part`, "."]);
  await rm(root, { recursive: true });
  await rename(`${tar}.part`, tar);
}
