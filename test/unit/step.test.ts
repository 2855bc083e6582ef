import assert from "node:assert/strict";
import { TsnetError } from "../../src/errors.ts";
import { type Step, type StepLog, applyAll, repairAll, revertAll } from "../../src/step.ts";
import { type Moment, World } from "../support/world.ts";

const NAMES = ["record", "link", "address", "rules"];
const MOMENTS: readonly Moment[] = ["before", "after"];

describe("step", () => {
  let world: World;
  let told: string[];
  const log: StepLog = {
    done: ({ what }) => told.push(`done ${what}`),
    undone: ({ what }, error) => told.push(error ? `failed to undo ${what}` : `undone ${what}`),
  };
  const plan = (): Step[] => NAMES.map((name) => world.step(name));

  beforeEach(() => {
    world = new World();
    told = [];
  });

  describe("applyAll", () => {
    it("applies every step in order and tells of each", async () => {
      await applyAll(plan(), log);
      assert.deepEqual(world.events, ["+record", "+link", "+address", "+rules"]);
      assert.deepEqual(told, ["done record", "done link", "done address", "done rules"]);
    });

    it("tells of nothing and changes nothing the second time", async () => {
      await applyAll(plan(), log);
      told = [];
      world.events.length = 0;
      await applyAll(plan(), log);
      assert.deepEqual(told, []);
      assert.deepEqual(world.events, []);
    });

    for (const moment of MOMENTS)
      for (const failing of NAMES)
        it(`leaves things as they were when ${failing} fails ${moment} it has changed something`, async () => {
          // Every combination of what was there before: rollback must leave exactly that.
          for (let mask = 0; mask < 2 ** NAMES.length; mask += 1) {
            world = new World();
            const there = NAMES.filter((name, bit) => (mask >> bit) & 1 && name !== failing);
            for (const name of there) world.things.add(name);
            world.faults.set(`apply ${failing}`, moment);
            await assert.rejects(applyAll(plan(), log), { message: `apply ${failing}: fault ${moment}` });
            assert.deepEqual([...world.things].sort(), there.sort());
          }
        });

    it("reverts in the reverse order", async () => {
      world.faults.set("apply rules", "before");
      await assert.rejects(applyAll(plan(), log));
      assert.deepEqual(world.events, ["+record", "+link", "+address", "-address", "-link", "-record"]);
      assert.deepEqual(told.slice(3), ["undone rules", "undone address", "undone link", "undone record"]);
    });

    it("goes on past what cannot be reverted, but keeps the record of it, and throws the first failure", async () => {
      world.faults.set("apply rules", "before").set("revert address", "before");
      await assert.rejects(applyAll(plan(), log), { message: "apply rules: fault before" });
      assert.deepEqual([...world.things], ["record", "address"]);
      assert.ok(told.includes("failed to undo address"));
    });

    it("reverts all it can when the record was there before", async () => {
      world.things.add("record");
      world.faults.set("apply rules", "before").set("revert address", "before");
      await assert.rejects(applyAll(plan(), log));
      assert.deepEqual([...world.things], ["record", "address"]);
    });
  });

  describe("revertAll", () => {
    beforeEach(async () => {
      await applyAll(plan(), log);
      world.events.length = 0;
      told = [];
    });

    it("reverts every step, last first", async () => {
      await revertAll(plan(), log);
      assert.deepEqual(world.events, ["-rules", "-address", "-link", "-record"]);
      assert.equal(world.things.size, 0);
    });

    it("succeeds when all is gone", async () => {
      await revertAll(plan(), log);
      await revertAll(plan(), log);
      assert.equal(world.events.length, 4);
    });

    for (const failing of NAMES)
      it(`goes on past ${failing} when that cannot be reverted, and throws why`, async () => {
        world.faults.set(`revert ${failing}`, "before");
        await assert.rejects(revertAll(plan(), log), { message: `revert ${failing}: fault before` });
        assert.deepEqual([...world.things], [failing]);
        assert.ok(told.includes(`failed to undo ${failing}`));
        world.faults.clear();
        await revertAll(plan(), log);
        assert.equal(world.things.size, 0);
      });

    it("throws every failure as one line", async () => {
      world.faults.set("revert link", "before").set("revert rules", "before");
      await assert.rejects(
        revertAll(plan(), log),
        new TsnetError("kernel", "revert rules: fault before; revert link: fault before"),
      );
    });
  });

  describe("repairAll", () => {
    it("reports each step that was not as it should be, and only those", async () => {
      await applyAll(plan(), log);
      world.things.delete("link");
      world.things.delete("rules");
      const drift: string[] = [];
      assert.deepEqual(await repairAll(plan(), ({ what }) => drift.push(what)), []);
      assert.deepEqual(drift, ["link", "rules"]);
      assert.deepEqual([...world.things].sort(), [...NAMES].sort());
    });

    it("repairs the rest when a step fails, takes nothing back and returns what failed", async () => {
      world.faults.set("apply link", "before");
      const failures = await repairAll(plan(), () => undefined);
      assert.deepEqual(failures, ["apply link: fault before"]);
      assert.deepEqual([...world.things], ["record", "address", "rules"]);
    });
  });
});
