import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { open } from "lmdb";
import { DamageError } from "../../../src/store/damage.ts";
import { readLmdb } from "../../../src/store/lmdb-file.ts";
import { seal } from "../../../src/store/sealed.ts";
import { openStoreFile, readStoreFile, writeStoreFile } from "../../../src/store/store-file.ts";

const PAGE = 4096;
const LINE = /^[^\n]+$/;

describe("readLmdb", () => {
  let dir: string;
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), "tsnet-test-"));
  });
  afterEach(() => {
    rmSync(dir, { recursive: true });
  });

  it("finds in a file and in LMDB's copy of it what LMDB has, whatever was written and deleted before", async () => {
    const key = fc
      .integer({ min: 0, max: 300 })
      .map((number) => `endpoint/${"n".repeat(number % 64)}/${number}`);
    // From a few bytes to a value that needs pages of its own.
    const value = fc.oneof(
      { weight: 9, arbitrary: fc.integer({ min: 0, max: 900 }) },
      { weight: 1, arbitrary: fc.integer({ min: 900, max: 20_000 }) },
    );
    const change = fc.record({ key, size: fc.option(value, { freq: 3, nil: undefined }) });
    let run = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(change, { minLength: 1, maxLength: 200, size: "max" }), async (changes) => {
        const path = join(dir, `${(run += 1)}.mdb`);
        const root = open<string, string>({ path, noSync: true, encoding: "string" });
        root.putSync("beside", "it");
        const records = root.openDB<string, string>({ name: "records", encoding: "string" });
        const model = new Map<string, string>();
        const check = (file: string) => {
          const { plain, databases } = readLmdb(readFileSync(file));
          assert.deepEqual([...plain], [["beside", "it"]]);
          assert.deepEqual([...databases.keys()], ["records"]);
          assert.deepEqual(new Map([...(databases.get("records") ?? [])]), model);
        };
        changes.forEach(({ key: changed, size }, index) => {
          if (size === undefined) records.removeSync(changed);
          else records.putSync(changed, "v".repeat(size));
          if (size === undefined) model.delete(changed);
          else model.set(changed, "v".repeat(size));
          if (index % 50 === 0) check(path);
        });
        check(path);
        await root.backup(`${path}.copy`, true);
        check(`${path}.copy`);
        await root.close();
      }),
      { numRuns: 8 },
    );
  });

  describe("of a file that was changed", () => {
    let good: Buffer;
    let path: string;
    let before: ReadonlyMap<string, unknown>;

    beforeEach(async () => {
      path = join(dir, "some.mdb");
      writeStoreFile(path, new Map());
      const { root, records } = openStoreFile(path);
      // Enough for a tree of two levels, a list of free pages and a value with pages of its own.
      for (let number = 0; number < 120; number += 1) {
        const key = `endpoint/${number}`;
        records.putSync(key, seal(key, { text: "x".repeat(number % 40 === 7 ? 9000 : number * 3) }));
        if (number % 3 === 0) records.removeSync(`endpoint/${number / 3}`);
      }
      await root.close();
      good = readFileSync(path);
      before = readStoreFile(path)?.records ?? assert.fail();
    });

    /** Undefined if it was refused in one line. */
    const read = (bytes: Buffer) => {
      writeFileSync(path, bytes);
      try {
        return readStoreFile(path)?.records;
      } catch (error) {
        assert.ok(error instanceof DamageError, String(error));
        assert.match(error.message, LINE);
        return undefined;
      }
    };

    it("refuses it wherever it was cut off, but for free pages at the end", () => {
      let refused = 0;
      for (let length = 0; length < good.length; length += PAGE / 2) {
        const records = read(good.subarray(0, length));
        if (records) assert.deepEqual(records, before);
        else refused += 1;
      }
      assert.ok(refused > good.length / PAGE, `only ${refused} were refused`);
    });

    it("refuses it in one line where a key begins with a line's end", () => {
      const at = good.lastIndexOf("endpoint/100");
      const bytes = Buffer.from(good);
      bytes.write("\n", at);
      assert.equal(read(bytes), undefined);
    });

    const damage = {
      "bytes here and there": fc
        .array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 12 })
        .map((changes) => (bytes: Buffer) => {
          for (const [at, value] of changes) bytes[at % bytes.length] = value;
        }),
      "a byte at the start of a page": fc
        .tuple(fc.nat(), fc.nat(150), fc.nat(255))
        .map(([page, at, value]) => (bytes: Buffer) => {
          bytes[((page * PAGE) % bytes.length) + at] = value;
        }),
      "a page that was never written": fc.nat().map((page) => (bytes: Buffer) => {
        bytes.fill(0, (page * PAGE) % bytes.length, ((page * PAGE) % bytes.length) + PAGE);
      }),
      "a page in the place of another": fc.tuple(fc.nat(), fc.nat()).map(([from, to]) => (bytes: Buffer) => {
        const start = (from * PAGE) % bytes.length;
        bytes.copy(bytes, (to * PAGE) % bytes.length, start, start + PAGE);
      }),
    };
    for (const [kind, change] of Object.entries(damage))
      it(`refuses it, or reads what was there: ${kind}`, () => {
        let refused = 0;
        fc.assert(
          fc.property(change, (apply) => {
            const bytes = Buffer.from(good);
            apply(bytes);
            const records = read(bytes);
            if (records) assert.deepEqual(records, before);
            else refused += 1;
          }),
          { numRuns: 60 },
        );
        assert.ok(refused > 5, `only ${refused} were refused`);
      });
  });
});
