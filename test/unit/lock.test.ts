import assert from "node:assert/strict";
import fc from "fast-check";
import { KeyedLock, Limit } from "../../src/lock.ts";

describe("KeyedLock", () => {
  it("runs one operation at a time per key, in the order they came", async () => {
    const operations = fc.array(fc.record({ key: fc.constantFrom("a", "b", "c"), fails: fc.boolean() }), {
      maxLength: 20,
    });
    await fc.assert(
      fc.asyncProperty(fc.scheduler(), operations, async (scheduler, queue) => {
        const lock = new KeyedLock();
        const running = new Map<string, number>();
        const done = new Map<string, number[]>();
        const ends = queue.map(({ key, fails }, index) =>
          lock.run(key, async () => {
            assert.equal(running.get(key), undefined, "two at a time");
            running.set(key, index);
            await scheduler.schedule(Promise.resolve(), `${key} ${String(index)}`);
            running.delete(key);
            done.set(key, [...(done.get(key) ?? []), index]);
            if (fails) throw new Error(`no ${String(index)}`);
            return index;
          }),
        );
        const settled = Promise.allSettled(ends);
        await scheduler.waitFor(settled);
        const results = await settled;
        for (const [index, { fails }] of queue.entries())
          assert.equal(results[index]?.status, fails ? "rejected" : "fulfilled");
        for (const order of done.values())
          assert.deepEqual(
            order,
            [...order].sort((a, b) => a - b),
          );
      }),
      { numRuns: 50 },
    );
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
