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
    assert.equal(lines.filter(({ level }) => level === "error").length, 2);
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
