import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { ConflictError, KernelError, isErrno, reason } from "../../errors.ts";
import { nftGeneration } from "./nft.ts";

const run = promisify(execFile);
type Variant = "nft" | "legacy";

/** A chain of the engine's, as iptables-save declares it. */
const ENGINE = ":DOCKER";
const SAVE_LIMIT = 64 << 20;
/** A program that is being replaced, or that the host has no room for, is there a moment later. */
const ATTEMPTS = 5;
const PAUSE_MS = 200;

/** Which of the two iptables the host's `iptables` is. */
export class IptablesVariant {
  #asked: Promise<Variant> | undefined;

  /**
   * Makes sure that the engine's rules and tsnet's will be in the same tables: those of nf_tables and those of
   * iptables-legacy are both in force, one after the other, and neither sees the other's.
   *
   * @throws {ConflictError} that says which program to choose
   * @throws {KernelError} if there is no `iptables` to ask
   */
  async mustNotMix(): Promise<void> {
    const here = await this.#here();
    const there = here === "nft" ? "legacy" : "nft";
    // Asking iptables-legacy for its rules would make the tables it has none of yet.
    if (there === "legacy" && (await tablesOfLegacy()) === "") return;
    if (!(await hasEngine(there))) return;
    // Of rules that it cannot show nothing is known: whoever needs them tells of that.
    if ((await hasEngine(here)) !== false) return;
    throw new ConflictError(
      `the engine's rules are those of iptables-${there}, but \`iptables\` is iptables-${here}; choose the same with \`update-alternatives --set iptables /usr/sbin/iptables-${there}\` (and ip6tables) and start tsnet again`,
    );
  }

  /** What is another number after each change to any rules; undefined where nobody tells of changes, or can be asked. */
  async generation(): Promise<number | undefined> {
    try {
      return (await this.#here()) === "nft" ? await nftGeneration() : undefined;
    } catch {
      return undefined;
    }
  }

  async #here(): Promise<Variant> {
    try {
      return await (this.#asked ??= variantHere());
    } catch (error) {
      this.#asked = undefined;
      throw error;
    }
  }
}

/** @throws {KernelError} that says what to do */
async function variantHere(): Promise<Variant> {
  for (let attempt = 1; ; attempt++) {
    try {
      return (await run("iptables", ["-V"])).stdout.includes("nf_tables") ? "nft" : "legacy";
    } catch (cause) {
      if (attempt < ATTEMPTS) await sleep(PAUSE_MS);
      else if (!isErrno(cause, "ENOENT")) throw new KernelError("iptables -V", "", reason(cause), { cause });
      else
        throw new KernelError(
          "iptables -V",
          "ENOENT",
          "iptables is not installed, but tsnet needs it, as the engine does; install it (`apt-get install iptables`) and start tsnet again",
        );
    }
  }
}

async function tablesOfLegacy(): Promise<string> {
  return (await readFile("/proc/net/ip_tables_names", "utf8").catch(() => "")).trim();
}

/**
 * Whether the engine has chains in the tables of a variant; undefined where that is missing, or cannot show its rules.
 */
async function hasEngine(variant: Variant): Promise<boolean | undefined> {
  return await run(`iptables-${variant}-save`, [], { maxBuffer: SAVE_LIMIT }).then(
    ({ stdout }) => stdout.includes(ENGINE),
    () => undefined,
  );
}
