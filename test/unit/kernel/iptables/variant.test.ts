import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ConflictError, KernelError } from "../../../../src/errors.ts";
import { IptablesVariant } from "../../../../src/kernel/iptables/variant.ts";

const LEGACY = "echo 'iptables v1.8.9 (legacy)'";
const ENGINE = "echo ':DOCKER - [0:0]'";

describe("IptablesVariant", () => {
  const path = process.env["PATH"];
  let bin: string;
  let variant: IptablesVariant;

  beforeEach(() => {
    bin = mkdtempSync(join(tmpdir(), "tsnet-test-"));
    process.env["PATH"] = bin;
    variant = new IptablesVariant();
  });
  afterEach(() => {
    process.env["PATH"] = path;
    rmSync(bin, { recursive: true });
  });

  /** The only programs there are. */
  function install(programs: Readonly<Record<string, string>>): void {
    for (const [name, script] of Object.entries(programs))
      writeFileSync(join(bin, name), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  }

  it("says what to do where there is no iptables, and finds it once it is there", async () => {
    await assert.rejects(variant.mustNotMix(), (error) => {
      assert.ok(error instanceof KernelError);
      assert.match(
        error.message,
        /^iptables -V: ENOENT: iptables is not installed.*apt-get install iptables/,
      );
      return true;
    });
    install({ iptables: LEGACY });
    await variant.mustNotMix();
  });

  it("cannot tell of changes where there is no iptables, or an older one", async () => {
    assert.equal(await variant.generation(), undefined);
    install({ iptables: LEGACY });
    assert.equal(await variant.generation(), undefined);
  });

  it("asks again where it could not be asked, and does not guess", async () => {
    install({
      iptables: `if [ -e "${bin}/failed" ]; then ${LEGACY}; else : >"${bin}/failed"; exit 1; fi`,
      "iptables-nft-save": ENGINE,
      "iptables-legacy-save": "",
    });
    await assert.rejects(variant.mustNotMix(), (error) => {
      assert.ok(error instanceof ConflictError);
      assert.match(error.message, /are those of iptables-nft, but `iptables` is iptables-legacy/);
      return true;
    });
  });

  it("takes nothing for the other's while its own rules cannot be shown", async () => {
    // As of one with a rule of nft's own; what the engine left in the other does no harm.
    const own = "echo 'Parsing nftables rule failed' >&2; exit 3";
    install({ iptables: LEGACY, "iptables-nft-save": ENGINE, "iptables-legacy-save": own });
    await variant.mustNotMix();
  });

  it("repeats in one line what an iptables says that cannot start", async () => {
    install({ iptables: "echo 'error while loading' >&2; echo 'shared libraries' >&2; exit 127" });
    await assert.rejects(variant.mustNotMix(), /iptables -V: .*error while loading; shared libraries/);
  });
});
