import { execFileSync } from "node:child_process";
import { symlinkSync } from "node:fs";
import { join } from "node:path";

const ROOT = join(import.meta.dirname, "../../..");

/**
 * Makes one file of the victim and the sources as they are now: it starts in a fifth of the time that it takes with tsx.
 *
 * @returns path of the victim's program
 */
export function compile(directory: string): string {
  const program = join(directory, "victim.cjs");
  execFileSync(join(ROOT, "scripts/bundle"), [join(import.meta.dirname, "victim.ts"), program]);
  symlinkSync(join(ROOT, "node_modules"), join(directory, "node_modules"));
  return program;
}
