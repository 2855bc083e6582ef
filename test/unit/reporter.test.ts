import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";

const ROOT = join(import.meta.dirname, "../..");

/** Tests of which some are skipped: a suite from its first hook on, and a single one. */
const TESTS = `
  import { skip } from "${ROOT}/test/support/skip.ts";
  describe("ports", () => {
    describe("engine 20.10", () => {
      before(function () { skip(this, "engine 20.10 cannot be fetched"); });
      it("are reached", () => {});
      describe("taken by others", () => it("are refused", () => {}));
    });
    it("are listed", () => {});
    it("of SCTP are reached", function () { skip(this, "the kernel has no SCTP"); });
  });`;

describe("Reporter", () => {
  let dir: string;
  beforeEach(() => (dir = mkdtempSync(join(tmpdir(), "tsnet-test-"))));
  afterEach(() => {
    rmSync(dir, { recursive: true });
  });

  it("says once why a suite is skipped, and counts each of its tests", async () => {
    const [file, results] = [join(dir, "ports.test.ts"), join(dir, "results.tsv")];
    writeFileSync(file, TESTS);
    const reporter = ["--reporter", "test/support/reporter.ts", "--reporter-option", `results=${results}`];
    const mocha = join(ROOT, "node_modules/mocha/bin/mocha.js");
    const { stdout } = await promisify(execFile)(process.execPath, [mocha, ...reporter, file], { cwd: ROOT });
    const skips = stdout.split("\n").filter((line) => /^ *- /.test(line));
    assert.deepEqual(
      skips.map((line) => line.trim()),
      ["- of SCTP are reached: the kernel has no SCTP", "- all of it: engine 20.10 cannot be fetched"],
    );
    assert.deepEqual(readFileSync(results, "utf8").trim().split("\n"), [
      "pass\tports are listed",
      "skip\tthe kernel has no SCTP\tports of SCTP are reached",
      "skip\tengine 20.10 cannot be fetched\tports engine 20.10 are reached",
      "skip\tengine 20.10 cannot be fetched\tports engine 20.10 taken by others are refused",
      "end",
    ]);
  });
});
