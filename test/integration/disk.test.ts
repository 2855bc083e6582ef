import assert from "node:assert/strict";
import {
  closeSync,
  fstatSync,
  ftruncateSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { TsnetError, reason } from "../../src/errors.ts";
import { DirectoryLock } from "../../src/store/directory-lock.ts";
import { currentBoot, readStore, replaceStore } from "../../src/store/state-directory.ts";
import { run } from "../lab/command.ts";
import { hostState, ip, mustBeIsolated, ruleLines, wipe } from "../support/isolated.ts";
import { NETWORKS, PORTS, endpointOf } from "../support/networks.ts";
import { id } from "../support/requests.ts";
import { Site } from "../support/site.ts";
import { openStore } from "../support/store.ts";
import { until } from "../support/until.ts";

const network = NETWORKS["dual stack"] ?? assert.fail();
const endpoint = endpointOf(network);
const other = {
  ...network,
  id: id(9),
  ipv4: [{ subnet: "10.99.0.0/16", gateway: "10.99.0.1/16", aux: {} }],
  ipv6: [],
};

/** A file system of its own, in the mount namespace that the test's file has to itself. */
const SIZE = "4m";

describe("a state directory", () => {
  let disk: string;

  before(mustBeIsolated);
  beforeEach(async () => {
    disk = mkdtempSync(join(tmpdir(), "tsnet-disk-"));
    await run(["mount", "-t", "tmpfs", "-o", `size=${SIZE}`, "tmpfs", disk]);
  });
  afterEach(async () => {
    // A program that is just being started has the daemon's files open for an instant.
    await until("nobody to use the disk", () => run(["umount", disk]), { everyMs: 50 });
    rmSync(disk, { recursive: true });
    await wipe();
  });

  it("is refused in one line on a disk that has no room for another file, however few are missing", async () => {
    const dump = join(disk, "dump.json");
    writeFileSync(dump, '{ "version": 1, "records": {} }');
    const small = join(disk, "small");
    mkdirSync(small);
    const codes: number[] = [];
    for (let inodes = 2; codes.at(-1) !== 0; inodes += 1) {
      assert.ok(inodes < 12);
      await run(["mount", "-t", "tmpfs", "-o", `nr_inodes=${inodes}`, "tmpfs", small]);
      const imported = ["store", "import", "--state-dir", join(small, "state"), dump];
      const { code, stderr } = await run([process.execPath, "--import", "tsx", "src/main.ts", ...imported], {
        allowFailure: true,
      });
      await run(["umount", small]);
      assert.match(stderr, code === 0 ? /^$/ : /^tsnet: [^\n]*no space left[^\n]*\n$/);
      codes.push(code);
    }
    assert.deepEqual(new Set(codes), new Set([0, 1]));
  });

  describe("on a disk that is full", () => {
    let site: Site;

    beforeEach(async () => {
      site = new Site(disk);
      await site.driver.createNetwork(network);
      await site.driver.createEndpoint(endpoint);
    });
    afterEach(() => site.stop());

    const full = /^[^\n]*: no space left on its file system; free some and try again$/;
    const attempts: Readonly<Record<string, () => Promise<unknown>>> = {
      createNetwork: () => site.driver.createNetwork(other),
      createEndpoint: () => site.driver.createEndpoint(endpointOf(network, 3)),
      join: () => site.driver.join(network.id, endpoint.id, "/run/docker/netns/x"),
      publish: () => site.driver.ports.publish(network.id, endpoint.id, PORTS),
    };

    for (const [what, attempt] of Object.entries(attempts))
      it(`refuses ${what} in one line and changes nothing; with room again it is done`, async () => {
        const before = { host: await hostState(), records: site.records() };
        fill();
        await assert.rejects(attempt(), (error) => {
          assert.ok(error instanceof TsnetError);
          assert.equal(error.code, "store");
          assert.match(error.message, full);
          return true;
        });
        assert.deepEqual({ host: await hostState(), records: site.records() }, before);
        empty();
        await attempt();
        assert.notDeepEqual(site.records(), before.records);
        assert.deepEqual(await site.reconcile(), {});
      });

    for (const what of ["revoke", "leave"] as const)
      it(`takes nothing back in ${what} that stays on record, or all of it`, async () => {
        await site.driver.join(network.id, endpoint.id, "/run/docker/netns/x");
        await site.driver.ports.publish(network.id, endpoint.id, PORTS);
        const published = { host: await hostState(), records: site.records() };
        fill();
        const takeBack = () =>
          what === "revoke"
            ? site.driver.ports.revoke(network.id, endpoint.id)
            : site.driver.leave(network.id, endpoint.id);
        const failure = await takeBack().catch(reason);
        if (failure !== undefined) {
          assert.match(failure, full);
          assert.deepEqual({ host: await hostState(), records: site.records() }, published);
        }
        empty();
        await takeBack();
        assert.deepEqual((await hostState()).sockets, []);
        assert.doesNotMatch((await ruleLines(4)).join("\n"), /--dport 8080/);
      });

    it("lets everything be read, looked at and repaired", async () => {
      const made = await hostState();
      fill();
      await ip("addr flush dev ts-000001aaaaaa");
      assert.ok((await site.reconcile())["address"]);
      assert.deepEqual(await hostState(), made);
      await site.driver.createNetwork(network);
      await site.driver.createEndpoint(endpoint);
      assert.deepEqual(await hostState(), made);
    });

    it("deletes, or says in one line why not and can be asked again; with room there is nothing left", async () => {
      fill();
      for (const remove of [
        () => site.driver.deleteEndpoint(network.id, endpoint.id),
        () => site.driver.deleteNetwork(network.id),
      ])
        await remove().catch((error: unknown) => {
          assert.ok(error instanceof TsnetError);
          assert.match(error.message, full);
        });
      empty();
      await site.driver.deleteEndpoint(network.id, endpoint.id);
      await site.driver.deleteNetwork(network.id);
      assert.deepEqual(site.records(), {});
      assert.deepEqual(Object.keys((await hostState()).links), ["lo"]);
      await site.restart();
      assert.deepEqual(site.records(), {});
    });
  });

  it("without room for an import keeps what it has, and is told so in one line", () => {
    const records = new Map([[`network/${id(1)}`, { text: "x".repeat(200_000) }]]);
    replaceStore(disk, new Map([[`network/${id(2)}`, {}]]), currentBoot());
    const before = readdirSync(disk);
    for (const left of [0, 30_000, 150_000]) {
      fill(left);
      assert.throws(() => {
        replaceStore(disk, records, currentBoot());
      }, /^TsnetError: store [^\n]*: no space left on its file system; free some and try again$/);
      empty();
      assert.deepEqual(readdirSync(disk), before);
      assert.deepEqual([...(readStore(disk, currentBoot())?.records.keys() ?? [])], [`network/${id(2)}`]);
    }
  });

  it("without room for a store is refused at the start in one line, and taken with it", async () => {
    const state = join(disk, "state");
    mkdirSync(state);
    fill();
    assert.throws(() => openStore(state), {
      message: new RegExp(`^store ${state}: no space left on its file system; free some and try again$`),
    });
    empty();
    await openStore(state).close();
  });

  it("whose files are deleted goes on as soon as there is room again, however little there was", async () => {
    const store = openStore(join(disk, "state"));
    store.put(`network/${network.id}`, network);
    const outcomes = new Set<string>();
    for (let left = 100_000; left <= 400_000; left += 8192) {
      rmSync(join(disk, "state"), { recursive: true });
      fill(left);
      const told = reasonOf(() => {
        store.put("endpoint/a/b", left);
      });
      outcomes.add(told.replace(/.*: /, ""));
      empty();
      store.put("endpoint/a/c", left);
      assert.deepEqual(
        store.list("").map(({ key }) => key),
        [...(told ? [] : ["endpoint/a/b"]), "endpoint/a/c", `network/${network.id}`],
      );
      store.delete("endpoint/a/b");
    }
    assert.deepEqual(outcomes, new Set(["no space left on its file system; free some and try again", ""]));
    await store.close();
  });

  for (const lost of ["tsnet.mdb", `run-${currentBoot()}.mdb`])
    it(`keeps the other of its files where ${lost} is deleted and there is little room`, async () => {
      const store = openStore(join(disk, "state"));
      for (let number = 0; number < 150; number += 1)
        store.put(`network/${id(number)}`, { text: "x".repeat(200) });
      const outcomes = new Set<boolean>();
      for (let left = 130_000; left <= 500_000; left += 16_384) {
        rmSync(join(disk, "state", lost));
        fill(left);
        const told = reasonOf(() => {
          store.put("endpoint/a/b", left);
        });
        outcomes.add(told === "");
        assert.ok((readStore(join(disk, "state"), currentBoot())?.records.size ?? 0) >= 150, String(left));
        empty();
        store.put("endpoint/a/b", left);
      }
      assert.equal(outcomes.size, 2);
      await store.close();
    });

  it("that is read-only is refused at the start in one line, with what is in it as it was", async () => {
    const directory = join(disk, "state");
    const store = openStore(directory);
    store.put(`network/${network.id}`, network);
    const records = store.list("");
    await store.close();
    await run(["mount", "-o", "remount,ro", disk]);
    const told = "its file system is read-only; remount it or choose another --state-dir";
    assert.throws(() => new DirectoryLock(directory), { message: `state directory ${directory}: ${told}` });
    assert.throws(() => openStore(directory), { message: `store ${directory}: ${told}` });
    await run(["mount", "-o", "remount,rw", disk]);
    const again = openStore(directory);
    assert.deepEqual(again.list(""), records);
    await again.close();
  });

  function reasonOf(attempt: () => void): string {
    try {
      attempt();
      return "";
    } catch (error) {
      return reason(error);
    }
  }

  /** Takes all the room there is, but for so many bytes. */
  function fill(left = 0): void {
    const fd = openSync(join(disk, "filler"), "w");
    try {
      for (const size of [65_536, 4096, 1]) {
        const block = Buffer.alloc(size, 1);
        try {
          for (;;) writeSync(fd, block);
        } catch (error) {
          assert.equal((error as NodeJS.ErrnoException).code, "ENOSPC");
        }
      }
      ftruncateSync(fd, fstatSync(fd).size - left);
    } finally {
      closeSync(fd);
    }
  }

  function empty(): void {
    rmSync(join(disk, "filler"));
  }
});
