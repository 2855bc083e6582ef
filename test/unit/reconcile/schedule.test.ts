import assert from "node:assert/strict";
import { Schedule } from "../../../src/reconcile/schedule.ts";
import { StoppedClock } from "../../support/clock.ts";
import { memoryLog } from "../../support/log.ts";

describe("Schedule", () => {
  let clock: StoppedClock;
  let schedule: Schedule;
  let began: string[];
  let end: ((error?: Error) => void)[];
  const { log, lines } = memoryLog();
  /** Work that goes on until its `end` is called. */
  const work = (name: string) => () => {
    began.push(name);
    return new Promise<void>((resolve, reject) => {
      end.push((error) => {
        if (error) reject(error);
        else resolve();
      });
    });
  };

  beforeEach(() => {
    clock = new StoppedClock();
    schedule = new Schedule(log);
    [began, end] = [[], []];
    lines.length = 0;
  });
  afterEach(() => {
    clock.release();
  });

  it("does once what was asked for many times, at the nearest time", async () => {
    for (const ms of [500, 100, 300]) schedule.soon("a", ms, work("a"));
    await clock.pass(99);
    assert.deepEqual(began, []);
    await clock.pass(1);
    await clock.pass(1000);
    assert.deepEqual(began, ["a"]);
  });

  it("does nothing beside itself: what is asked for meanwhile is done once, after its end", async () => {
    schedule.soon("a", 100, work("first"));
    schedule.soon("b", 100, work("other"));
    await clock.pass(100);
    for (const ms of [500, 200, 500]) schedule.soon("a", ms, work("next"));
    await clock.pass(1000);
    assert.deepEqual(began, ["first", "other"]);
    end[0]?.();
    await clock.pass(0);
    await clock.pass(199);
    assert.deepEqual(began, ["first", "other"]);
    await clock.pass(1);
    assert.deepEqual(began, ["first", "other", "next"]);
    end[2]?.();
    await clock.pass(1000);
    assert.equal(began.length, 3);
  });

  it("does nothing beside what it was told to begin at once", async () => {
    const done = schedule.now("a", work("first"));
    schedule.soon("a", 100, work("next"));
    await clock.pass(1000);
    assert.deepEqual(began, ["first"]);
    end[0]?.();
    await done;
    await clock.pass(100);
    assert.deepEqual(began, ["first", "next"]);
  });

  it("tries again what failed a second later, or when it was asked for before that", async () => {
    schedule.soon("a", 0, work("first"));
    await clock.pass(0);
    end[0]?.(new Error("no"));
    await clock.pass(0);
    await clock.pass(999);
    assert.deepEqual(began, ["first"]);
    await clock.pass(1);
    assert.deepEqual(began, ["first", "first"]);
    schedule.soon("a", 100, work("next"));
    end[1]?.(new Error("no"));
    await clock.pass(0);
    await clock.pass(100);
    assert.deepEqual(began, ["first", "first", "next"]);
  });

  it("waits twice as long each time that it fails again, up to a minute, until it succeeds or is asked for", async () => {
    const fail = async () => {
      end.at(-1)?.(new Error("no"));
      await clock.pass(0);
    };
    const beginsAfter = async (ms: number) => {
      const before = began.length;
      await clock.pass(ms - 1);
      assert.equal(began.length, before, `it began before ${ms} ms`);
      await clock.pass(1);
      assert.equal(began.length, before + 1, `it did not begin after ${ms} ms`);
    };
    schedule.soon("a", 0, work("a"));
    await clock.pass(0);
    for (const ms of [1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]) {
      await fail();
      await beginsAfter(ms);
    }
    await fail();
    schedule.soon("a", 100, work("a"));
    await beginsAfter(100);
    await fail();
    await beginsAfter(1000);
    await fail();
    await beginsAfter(2000);
    end.at(-1)?.();
    await clock.pass(0);
    schedule.soon("a", 0, work("a"));
    await clock.pass(0);
    await fail();
    await beginsAfter(1000);
  });

  it("tells once why something fails, until that is something else or it has succeeded", async () => {
    for (const outcome of ["no", "no", "never", "never", undefined, "never"]) {
      schedule.soon("a", 0, work("a"));
      await clock.pass(0);
      end.at(-1)?.(outcome === undefined ? undefined : new Error(outcome));
      await clock.pass(0);
    }
    schedule.soon("b", 0, work("b"));
    await clock.pass(0);
    end.at(-1)?.(new Error("never"));
    await clock.pass(0);
    assert.deepEqual(
      lines.map(({ level, err }) => [level, (err as Error).message]),
      ["no", "never", "never", "never"].map((text) => ["error", text]),
    );
  });

  it("waits for what is under way when it is stopped, and does no more", async () => {
    schedule.soon("a", 0, work("first"));
    schedule.soon("b", 100, work("never"));
    await clock.pass(0);
    schedule.soon("a", 0, work("never"));
    let stopped = false;
    const stop = schedule.stop().then(() => (stopped = true));
    await clock.pass(1000);
    assert.equal(stopped, false);
    end[0]?.();
    await stop;
    await clock.pass(1000);
    assert.deepEqual(began, ["first"]);
  });
});
