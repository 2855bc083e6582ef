import assert from "node:assert/strict";
import fc from "fast-check";
import { KeyedLock, Limit } from "../../src/lock.ts";

describe("KeyedLock", () => {
  it("runs what is in each other's way one after the other, in the order they came, and all of it", async () => {
    const part = fc.option(fc.constantFrom("x", "y"), { nil: undefined });
    const operation = fc.record({ key: fc.constantFrom("a", "b"), part, fails: fc.boolean() });
    await fc.assert(
      fc.asyncProperty(fc.scheduler(), fc.array(operation, { maxLength: 20 }), async (scheduler, queue) => {
        const lock = new KeyedLock();
        const ended = new Set<number>();
        const ends = queue.map(({ key, part, fails }, index) => {
          const before = queue.slice(0, index).flatMap((other, position) => {
            const apart = other.key !== key || (other.part && part && other.part !== part);
            return apart ? [] : position;
          });
          const run = async () => {
            assert.deepEqual(
              before.filter((position) => !ended.has(position)),
              [],
              "too early",
            );
            await scheduler.schedule(Promise.resolve(), String(index));
            assert.ok(lock.isHeld(key));
            ended.add(index);
            if (fails) throw new Error(`no ${String(index)}`);
            return index;
          };
          return part === undefined ? lock.run(key, run) : lock.runPart(key, part, run);
        });
        const settled = Promise.allSettled(ends);
        await scheduler.waitFor(settled);
        assert.deepEqual([lock.isHeld("a"), lock.isHeld("b")], [false, false]);
        for (const [index, result] of (await settled).entries())
          assert.equal(
            result.status === "fulfilled" ? result.value : (result.reason as Error).message,
            queue[index]?.fails ? `no ${String(index)}` : index,
          );
      }),
      { numRuns: 200 },
    );
  });

  it("runs operations on different parts of a key side by side", async () => {
    const lock = new KeyedLock();
    let open: () => void = () => undefined;
    const gate = new Promise<void>((resolve) => (open = resolve));
    const held = lock.runPart("a", "x", () => gate);
    assert.equal(await lock.runPart("a", "y", () => Promise.resolve("y ran")), "y ran");
    const whole = lock.run("a", () => Promise.resolve("the whole ran"));
    const late = lock.runPart("a", "y", () => Promise.resolve("y ran again"));
    const early = new Promise((resolve) => setImmediate(resolve, "nothing"));
    assert.equal(await Promise.race([whole, late, early]), "nothing");
    open();
    await held;
    assert.deepEqual(await Promise.all([whole, late]), ["the whole ran", "y ran again"]);
  });

  it("runs operations on different keys side by side", async () => {
    const lock = new KeyedLock();
    let open: () => void = () => undefined;
    const gate = new Promise<void>((resolve) => (open = resolve));
    const held = lock.run("a", () => gate);
    assert.equal(await lock.run("b", () => Promise.resolve("b ran")), "b ran");
    open();
    await held;
  });

  it("passes on what the operation returns and what it throws", async () => {
    const lock = new KeyedLock();
    assert.equal(await lock.run("a", () => Promise.resolve(7)), 7);
    await assert.rejects(
      lock.run("a", () => Promise.reject(new Error("no"))),
      { message: "no" },
    );
    assert.equal(await lock.run("a", () => Promise.resolve(8)), 8);
  });
});

describe("Limit", () => {
  it("runs so many at a time and no more, and every one although some fail", async () => {
    const limit = new Limit(3);
    let [now, most] = [0, 0];
    const done: number[] = [];
    const all = limit.each([1, 2, 3, 4, 5, 6, 7, 8], async (number) => {
      most = Math.max(most, (now += 1));
      await new Promise((resolve) => setImmediate(resolve));
      now -= 1;
      done.push(number);
      if (number === 2 || number === 5) throw new Error(`no ${String(number)}`);
    });
    await assert.rejects(all, { message: "no 2" });
    assert.equal(most, 3);
    assert.deepEqual(done, [1, 2, 3, 4, 5, 6, 7, 8]);
  });
});
