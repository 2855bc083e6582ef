import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { copyFileSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MAIN } from "../support/daemon.ts";

const COMPILE = join(import.meta.dirname, "../../scripts/compile.js");

describe("what starts the program", () => {
  let dir: string;
  const at = (name: string) => join(dir, name);
  const run = () => execFileSync(process.execPath, [at("main.js"), "argument"], { encoding: "utf8" }).trim();

  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), "tsnet-test-"));
    copyFileSync(MAIN, at("main.js"));
    writeFileSync(at("package.json"), '{ "type": "module" }');
    writeFileSync(at("program.cjs"), "console.log('compiled', process.argv[2]);");
    execFileSync(process.execPath, [COMPILE, at("program.cjs")]);
    // V8 compares lengths only, and so tells which of the two it runs.
    writeFileSync(at("program.cjs"), "console.log('the text', process.argv[2]);");
  });
  afterEach(() => {
    rmSync(dir, { recursive: true });
  });

  it("runs what was compiled when it was built", () => {
    assert.equal(run(), "compiled argument");
  });

  for (const [what, spoil] of [
    [
      "is of another program",
      () => {
        writeFileSync(at("program.cjs"), "console.log('the text and more');");
      },
    ],
    [
      "is of another V8, or nothing at all",
      () => {
        writeFileSync(at("program.cjs.compiled"), "nothing at all");
      },
    ],
    [
      "is not there",
      () => {
        rmSync(at("program.cjs.compiled"));
      },
    ],
  ] as const)
    it(`compiles it where what was compiled ${what}`, () => {
      spoil();
      assert.match(run(), /^the text/);
    });
});
