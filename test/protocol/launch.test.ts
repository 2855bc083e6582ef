import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { copyFileSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import { MAIN } from "../support/daemon.ts";

const COMPILE = join(import.meta.dirname, "../../scripts/compile.js");
const DIGEST = 4;

describe("what starts the program", () => {
  let dir: string;
  let compiled: string;
  const at = (name: string) => join(dir, name);
  const run = () => execFileSync(process.execPath, [at("main.js"), "argument"], { encoding: "utf8" }).trim();
  const write = (what: string) => {
    writeFileSync(at("program.cjs"), `console.log('${what}', process.argv[2]);`);
  };
  const damage = (bytes: (whole: Buffer) => void) => {
    const whole = readFileSync(compiled);
    bytes(whole);
    writeFileSync(compiled, whole);
  };

  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), "tsnet-test-"));
    compiled = at("program.cjs.compiled");
    copyFileSync(MAIN, at("main.js"));
    writeFileSync(at("package.json"), '{ "type": "module" }');
    write("program");
    execFileSync(process.execPath, [COMPILE, at("program.cjs")]);
  });
  afterEach(() => {
    rmSync(dir, { recursive: true });
  });

  it("runs what was compiled when it was built", () => {
    // V8 itself compares lengths only, and so shows which of the two it runs.
    write("PROGRAM");
    damage((whole) => {
      const data = whole.subarray(0, -DIGEST);
      whole.writeUInt32BE(crc32(data, crc32(readFileSync(at("program.cjs")))), data.length);
    });
    assert.equal(run(), "program argument");
  });

  const spoilt: Record<string, () => void> = {
    "is of another program": () => {
      write("PROGRAM");
    },
    "has zeros in it": () => {
      damage((whole) => whole.fill(0, whole.length / 2));
    },
    "has another byte in it": () => {
      damage((whole) => whole.writeUInt8(255 - whole.readUInt8(100), 100));
    },
    "has no end": () => {
      truncateSync(compiled, 1000);
    },
    "is empty": () => {
      truncateSync(compiled);
    },
    "is not there": () => {
      rmSync(compiled);
    },
  };
  for (const [what, spoil] of Object.entries(spoilt))
    it(`compiles the program where what was compiled ${what}`, () => {
      spoil();
      const text = readFileSync(at("program.cjs"), "utf8");
      assert.equal(run(), text.includes("PROGRAM") ? "PROGRAM argument" : "program argument");
    });
});
