import { mkdtemp, rm, symlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { run } from "../lab/command.ts";

/** The two iptables that a Debian host can have. */
export type Variant = "nf_tables" | "legacy";

/** What the programs of a variant are called: `iptables-nft-save`. */
export function programOf(variant: Variant, program: string): string {
  return program.replace("tables", variant === "legacy" ? "tables-legacy" : "tables-nft");
}

/**
 * Makes `iptables` and its companions those of a variant, as update-alternatives does it for a host, for this
 * process and those it starts.
 *
 * @returns takes it back
 */
export async function useIptables(variant: Variant): Promise<() => Promise<void>> {
  const bin = await mkdtemp(join(tmpdir(), "tsnet-test-"));
  for (const family of ["iptables", "ip6tables"])
    for (const name of [family, `${family}-restore`, `${family}-save`]) {
      const { stdout } = await run(["sh", "-c", `command -v ${programOf(variant, name)}`]);
      await symlink(stdout.trim(), join(bin, name));
    }
  const before = process.env["PATH"] ?? "";
  process.env["PATH"] = `${bin}:${before}`;
  return async () => {
    process.env["PATH"] = before;
    await rm(bin, { recursive: true });
  };
}
