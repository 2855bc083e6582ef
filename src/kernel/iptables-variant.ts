import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { promisify } from "node:util";
import { ConflictError } from "../errors.ts";

const run = promisify(execFile);
type Variant = "nft" | "legacy";

/** A chain of the engine's, as iptables-save declares it. */
const ENGINE = ":DOCKER";
const SAVE_LIMIT = 64 << 20;

/** Which of the two iptables the host's `iptables` is. */
export class IptablesVariant {
  #here: Promise<Variant> | undefined;

  /**
   * Makes sure that the engine's rules and tsnet's will be in the same tables: those of nf_tables and those of
   * iptables-legacy are both in force, one after the other, and neither sees the other's.
   *
   * @throws {ConflictError} that says which program to choose
   */
  async mustNotMix(): Promise<void> {
    this.#here ??= output("iptables", "-V").then((text) => (text.includes("legacy") ? "legacy" : "nft"));
    const here = await this.#here;
    const there = here === "nft" ? "legacy" : "nft";
    // Asking iptables-legacy for its rules would make the tables it has none of yet.
    if (there === "legacy" && (await tablesOfLegacy()) === "") return;
    if (!(await output(`iptables-${there}-save`)).includes(ENGINE)) return;
    if ((await output(`iptables-${here}-save`)).includes(ENGINE)) return;
    throw new ConflictError(
      `the engine's rules are those of iptables-${there}, but \`iptables\` is iptables-${here}; choose the same with \`update-alternatives --set iptables /usr/sbin/iptables-${there}\` (and ip6tables) and start tsnet again`,
    );
  }
}

async function tablesOfLegacy(): Promise<string> {
  return (await readFile("/proc/net/ip_tables_names", "utf8").catch(() => "")).trim();
}

/** What a program prints; nothing where it is missing or fails. */
async function output(program: string, ...args: string[]): Promise<string> {
  return await run(program, args, { maxBuffer: SAVE_LIMIT }).then(
    ({ stdout }) => stdout,
    () => "",
  );
}
