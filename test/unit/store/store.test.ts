import assert from "node:assert/strict";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setImmediate } from "node:timers/promises";
import { gunzipSync } from "node:zlib";
import { open } from "lmdb";
import { problems } from "../../../src/store/audit.ts";
import { DirectoryLock } from "../../../src/store/directory-lock.ts";
import { VERSION } from "../../../src/store/migration.ts";
import { mustSurvive, readStore, replaceStore } from "../../../src/store/state-directory.ts";
import { State } from "../../../src/store/state.ts";
import { Store } from "../../../src/store/store.ts";
import { id } from "../../support/requests.ts";
import { openStore } from "../../support/store.ts";
import { endpoint, network } from "./records.ts";

/** What a daemon of an earlier version has written. */
const fixture = (name: string) => gunzipSync(readFileSync(join(import.meta.dirname, `${name}.mdb.gz`)));
const [SUNDAY, MONDAY] = ["5d0a1", "6e1b2"];

describe("Store", () => {
  let dir: string;
  let store: Store;
  const keys = () => store.list("").map(({ key }) => key);
  const reopen = async (boot = SUNDAY) => {
    await store.close();
    store = openStore(dir, boot);
  };
  const file = (name: string) => join(dir, name);

  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), "tsnet-test-"));
    store = openStore(dir, SUNDAY);
  });
  afterEach(async () => {
    await store.close().catch(() => undefined);
    rmSync(dir, { recursive: true });
  });

  it("lists what was put under a prefix, in the order of the keys, as it was", async () => {
    const value = { text: "ä\n\u0000", list: [1, null, { deep: true }], empty: {} };
    store.put("network/b", value);
    store.put("network/a", 1);
    store.put("networks", "x");
    store.put("endpoint/a/b", [2]);
    assert.deepEqual(store.list("network/"), [
      { key: "network/a", value: 1 },
      { key: "network/b", value },
    ]);
    assert.deepEqual(keys(), ["endpoint/a/b", "network/a", "network/b", "networks"]);
  });

  it("keeps everything when it is opened again, and nothing that was deleted", async () => {
    store.put("network/a", 1);
    store.put("endpoint/a/b", 1);
    store.put("endpoint/a/b", 2);
    store.put("endpoint/a/c", 3);
    store.delete("endpoint/a/c");
    store.delete("endpoint/a/never");
    await reopen();
    assert.deepEqual(store.list(""), [
      { key: "endpoint/a/b", value: 2 },
      { key: "network/a", value: 1 },
    ]);
  });

  for (const [what, lose] of Object.entries<() => void>({
    "the file with every record": () => {
      rmSync(file(`run-${SUNDAY}.mdb`));
    },
    "the file that lasts": () => {
      rmSync(file("tsnet.mdb"));
    },
    "the whole directory": () => {
      rmSync(dir, { recursive: true });
    },
  }))
    it(`is there again with the next change after somebody has deleted ${what}`, async () => {
      store.put("network/a", 1);
      store.put("network/b", 2);
      store.put("endpoint/a/b", 3);
      lose();
      store.delete("network/b");
      store.put("endpoint/a/c", 4);
      assert.deepEqual(keys(), ["endpoint/a/b", "endpoint/a/c", "network/a"]);
      await reopen();
      assert.deepEqual(keys(), ["endpoint/a/b", "endpoint/a/c", "network/a"]);
      await reopen(MONDAY);
      assert.deepEqual(keys(), ["network/a"]);
    });

  for (const what of ["tsnet.mdb", `run-${SUNDAY}.mdb`])
    it(`is never written over by one that was open before, and says so: ${what}`, async () => {
      const other = mkdtempSync(join(tmpdir(), "tsnet-test-"));
      try {
        const owner = openStore(other, SUNDAY);
        owner.put("network/theirs", 1);
        await owner.close();
        store.put("network/mine", 1);
        // As a disk is mounted that has been elsewhere, or of this boot.
        rmSync(dir, { recursive: true });
        mkdirSync(dir);
        copyFileSync(join(other, what), file(what));
        const there = readFileSync(file(what));
        const told = /store \S+ is another than the one that was opened.*; restart tsnet/;
        assert.throws(() => {
          store.put("network/late", 1);
        }, told);
        assert.throws(() => {
          store.delete("network/mine");
        }, told);
        assert.match(store.trouble() ?? "", told);
        assert.deepEqual(readdirSync(dir), [what]);
        assert.deepEqual(readFileSync(file(what)), there);
        await reopen();
        assert.deepEqual(keys(), ["network/theirs"]);
        assert.equal(store.trouble(), undefined);
      } finally {
        rmSync(other, { recursive: true });
      }
    });

  it("keeps its directory locked when that was deleted, and yields to whoever has taken it meanwhile", async () => {
    const lock = new DirectoryLock(dir);
    await store.close();
    store = new Store(dir, SUNDAY, lock);
    store.put("network/a", 1);
    rmSync(dir, { recursive: true });
    store.put("network/b", 1);
    assert.throws(() => new DirectoryLock(dir), /is in use by another tsnet daemon, process \d+$/);
    rmSync(dir, { recursive: true });
    const other = new DirectoryLock(dir);
    assert.throws(() => {
      store.put("network/c", 1);
    }, /is in use by another tsnet daemon/);
    other.release();
    store.put("network/c", 1);
    assert.deepEqual(
      [...(readStore(dir, SUNDAY)?.records.keys() ?? [])],
      ["network/a", "network/b", "network/c"],
    );
    lock.release();
  });

  it("is read by others while it is open, without a change to it", async () => {
    store.put("network/a", 1);
    const before = readdirSync(dir);
    assert.deepEqual(readStore(dir, SUNDAY), { version: VERSION, records: new Map([["network/a", 1]]) });
    assert.deepEqual(readdirSync(dir), before);
  });

  describe("after the machine has started anew", () => {
    it("has the networks, and no endpoints", async () => {
      store.put("network/a", 1);
      store.put("endpoint/a/b", 2);
      store.put("network/b", 3);
      store.delete("network/a");
      await reopen(MONDAY);
      assert.deepEqual(store.list(""), [{ key: "network/b", value: 3 }]);
      assert.deepEqual(
        readdirSync(dir).filter((name) => name.includes(SUNDAY)),
        [],
      );
    });

    it("has a network that was deleted and made again at once", async () => {
      store.put("network/a", 1);
      store.delete("network/a");
      store.put("network/a", 2);
      await setImmediate();
      assert.deepEqual(readStore(dir, MONDAY)?.records, new Map([["network/a", 2]]));
    });

    it("no longer has one that was deleted a moment before", async () => {
      store.put("network/a", 1);
      store.delete("network/a");
      await setImmediate();
      assert.equal(readStore(dir, MONDAY)?.records.size, 0);
    });

    it("has what a daemon had written that was killed before it was saved, and started once more", async () => {
      const unsaved = readFileSync(file("tsnet.mdb"));
      store.put("network/a", 1);
      assert.equal(readStore(dir, MONDAY)?.records.size, 1);
      writeFileSync(file("tsnet.mdb"), unsaved);
      assert.equal(readStore(dir, MONDAY)?.records.size, 0);
      await reopen();
      await reopen(MONDAY);
      assert.deepEqual(keys(), ["network/a"]);
    });

    it("does not look at what the machine's end may have left half-written", async () => {
      store.put("network/a", 1);
      await store.close();
      writeFileSync(file(`run-${SUNDAY}.mdb`), "half");
      store = openStore(dir, MONDAY);
      assert.deepEqual(keys(), ["network/a"]);
    });
  });

  it("leaves no draft that a killed daemon left", async () => {
    store.put("network/a", 1);
    await store.close();
    for (const name of [`run-${SUNDAY}.mdb.new`, "tsnet.mdb.new", "tsnet.mdb.new-lock"])
      writeFileSync(file(name), "half");
    store = openStore(dir, SUNDAY);
    assert.deepEqual(keys(), ["network/a"]);
    const files = [`run-${SUNDAY}.mdb`, "tsnet.mdb"].flatMap((name) => [name, `${name}-lock`]);
    assert.deepEqual(readdirSync(dir).sort(), files);
  });

  describe("of version 1", () => {
    const tags = (state: State) =>
      state.networks().map(({ id: of }) => [of, state.endpoints(of).map(({ id: one }) => one)] as const);

    beforeEach(async () => {
      await store.close();
      rmSync(dir, { recursive: true });
      dir = mkdtempSync(join(tmpdir(), "tsnet-test-"));
      writeFileSync(file("tsnet.mdb"), fixture("version-1"));
      writeFileSync(file("tsnet.mdb-lock"), "");
      store = openStore(dir, SUNDAY);
    });

    it("is opened with every network and endpoint, and is of today's version from then on", async () => {
      const expected = [
        [id(1), [id(18), id(19)]],
        [id(2), [id(34)]],
      ];
      assert.deepEqual(tags(new State(store)), expected);
      assert.deepEqual(new State(store).endpoint(id(1), id(18))?.ports, [
        { protocol: "tcp", containerPort: 80, host: { address: "0.0.0.0", port: 8080 }, family: 4 },
      ]);
      await reopen();
      assert.deepEqual(tags(new State(store)), expected);
      assert.equal(readStore(dir, SUNDAY)?.version, VERSION);
      assert.equal(readStore(dir, MONDAY)?.version, VERSION);
    });

    it("is changed to today's version even if that was interrupted", async () => {
      await store.close();
      // The first of the two files was made, the second was not.
      writeFileSync(file("tsnet.mdb"), fixture("version-1"));
      store = openStore(dir, SUNDAY);
      assert.equal(keys().length, 5);
      assert.equal(readStore(dir, MONDAY)?.version, VERSION);
    });
  });

  describe("of version 2", () => {
    const left = (state: State) =>
      state
        .networks()
        .flatMap(({ id: of }) => state.endpoints(of))
        .map((one) => [one.id, one.left, one.sandbox] as const);
    const expected = [
      [id(1002), undefined, "/run/docker/netns/2c1207509e31"],
      [id(1003), "", undefined],
      [id(2002), "", undefined],
    ];

    beforeEach(async () => {
      await store.close();
      rmSync(dir, { recursive: true });
      dir = mkdtempSync(join(tmpdir(), "tsnet-test-"));
      writeFileSync(file(`run-${SUNDAY}.mdb`), fixture("version-2-run"));
      writeFileSync(file("tsnet.mdb"), fixture("version-2"));
    });

    it("is read beside the daemon that has written it", () => {
      const [live, saved] = [readStore(dir, SUNDAY), readStore(dir, MONDAY)];
      assert.deepEqual(
        [live?.version, live?.records.size, saved?.version, saved?.records.size],
        [2, 5, 2, 2],
      );
      assert.deepEqual(problems(live?.records ?? assert.fail(), ["bridge", "macvlan"]), []);
      assert.deepEqual(readdirSync(dir).sort(), [`run-${SUNDAY}.mdb`, "tsnet.mdb"]);
    });

    it("is opened with every network and endpoint, and is of today's version from then on", async () => {
      store = openStore(dir, SUNDAY);
      for (let starts = 0; starts < 2; starts += 1) {
        const state = new State(store);
        assert.deepEqual(
          state.networks().map(({ id: of, backend }) => [of, backend]),
          [
            [id(1), "bridge"],
            [id(2), "macvlan"],
          ],
        );
        assert.deepEqual(left(state), expected);
        assert.equal(state.endpoint(id(1), id(1002))?.ports?.[0]?.host?.port, 8080);
        assert.equal(readStore(dir, SUNDAY)?.version, VERSION);
        assert.equal(readStore(dir, MONDAY)?.version, VERSION);
        await reopen();
      }
    });

    it("is opened with the networks after the machine has started anew", () => {
      store = openStore(dir, MONDAY);
      assert.deepEqual(keys(), [`network/${id(1)}`, `network/${id(2)}`]);
      assert.equal(readStore(dir, MONDAY)?.version, VERSION);
    });
  });

  for (const name of [`run-${SUNDAY}.mdb`, "tsnet.mdb"])
    it(`refuses a newer version's ${name} in one line, and leaves it as it is`, async () => {
      store.put("network/a", 1);
      await store.close();
      const root = open<string, string>({ path: file(name), noSync: true, encoding: "string" });
      root.putSync("version", String(VERSION + 1));
      await root.close();
      const before = readFileSync(file(name));
      assert.throws(() => openStore(dir, SUNDAY), {
        message: `store ${file(name)} is of version ${VERSION + 1}, but this tsnet knows up to ${VERSION}; start the newer tsnet, or move the file away`,
      });
      assert.deepEqual(readFileSync(file(name)), before);
    });

  it("leaves alone what somebody keeps beside it", async () => {
    const copies = ["tsnet.mdb.broken", "tsnet.mdb~", `run-${SUNDAY}.mdb.bak`, `run-${SUNDAY}.old.mdb`];
    for (const name of copies) writeFileSync(file(name), "");
    await reopen(MONDAY);
    for (const name of copies) assert.ok(existsSync(file(name)), name);
  });

  describe("that is damaged", () => {
    beforeEach(async () => {
      store.put("network/a", 1);
      store.put("endpoint/a/b", 2);
      await store.close();
    });

    const spoil = (name: string) => {
      const bytes = readFileSync(file(name));
      bytes.fill(0xff, bytes.length - 4096);
      bytes.fill(0xff, 8192, 8300);
      writeFileSync(file(name), bytes);
    };

    it("is refused in one line that says what, where and what to do, and can be done", async () => {
      spoil(`run-${SUNDAY}.mdb`);
      assert.throws(
        () => openStore(dir, SUNDAY),
        /^DamageError: store \S+run-5d0a1\.mdb is damaged: [^\n]+; keep a copy and delete it: networks come back from tsnet\.mdb, containers must be restarted$/,
      );
      rmSync(file(`run-${SUNDAY}.mdb`));
      store = openStore(dir, SUNDAY);
      assert.deepEqual(keys(), ["network/a"]);
    });

    it("is refused if it is empty", () => {
      writeFileSync(file(`run-${SUNDAY}.mdb`), "");
      assert.throws(
        () => openStore(dir, SUNDAY),
        /run-5d0a1\.mdb is damaged: the file is empty; keep a copy/,
      );
    });

    it("is refused when only what was saved is there, and that is damaged", () => {
      spoil("tsnet.mdb");
      assert.throws(
        () => openStore(dir, MONDAY),
        /tsnet\.mdb is damaged: [^\n]+; keep a copy and delete it, then `tsnet store import` an export or create/,
      );
      assert.equal(existsSync(file(`run-${MONDAY}.mdb`)), false);
    });

    it("makes a sound copy again when only the copy is damaged", async () => {
      spoil("tsnet.mdb");
      store = openStore(dir, SUNDAY);
      assert.deepEqual(keys(), ["endpoint/a/b", "network/a"]);
      assert.deepEqual(readStore(dir, MONDAY)?.records, new Map([["network/a", 1]]));
    });

    it("is told of before the machine starts anew, when only the copy is damaged or gone", () => {
      mustSurvive(dir, SUNDAY);
      spoil("tsnet.mdb");
      assert.throws(() => {
        mustSurvive(dir, SUNDAY);
      }, /tsnet\.mdb is damaged: [^\n]+; restart tsnet, which writes it anew$/);
      rmSync(file("tsnet.mdb"));
      assert.throws(() => {
        mustSurvive(dir, SUNDAY);
      }, /tsnet\.mdb is gone; restart tsnet, which writes it anew$/);
    });

    it("is not mistaken when a record is put under another's key", async () => {
      const root = open<string, string>({
        path: file(`run-${SUNDAY}.mdb`),
        noSync: true,
        encoding: "string",
      });
      const records = root.openDB<string, string>({ name: "records", encoding: "string" });
      records.putSync("network/b", records.get("network/a") ?? assert.fail());
      await root.close();
      assert.throws(() => openStore(dir, SUNDAY), /record network\/b is not what was written/);
    });
  });

  describe("replaceStore", () => {
    const records = new Map<string, unknown>([
      [`network/${id(1)}`, network(1)],
      [`endpoint/${id(1)}/${id(2)}`, endpoint(2, 1)],
    ]);

    it("puts other records in the place of all there are, for this boot and the next", async () => {
      store.put("network/a", 1);
      await store.close();
      replaceStore(dir, records, SUNDAY);
      assert.deepEqual(readStore(dir, SUNDAY)?.records, records);
      assert.deepEqual([...(readStore(dir, MONDAY)?.records.keys() ?? [])], [`network/${id(1)}`]);
      store = openStore(dir, SUNDAY);
      assert.equal(new State(store).networks().length, 1);
    });

    it("counts from the first of the two files on", async () => {
      store.put("network/a", 1);
      await store.close();
      copyFileSync(file("tsnet.mdb"), file("before"));
      replaceStore(dir, records, SUNDAY);
      copyFileSync(file("before"), file("tsnet.mdb"));
      store = openStore(dir, SUNDAY);
      await reopen(MONDAY);
      assert.deepEqual(keys(), [`network/${id(1)}`]);
    });
  });
});
