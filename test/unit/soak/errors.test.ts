import assert from "node:assert/strict";
import { type Happened, unexplainedErrors } from "../../soak/errors.ts";
import { FAULTS, FORGOTTEN_MS } from "../../soak/faults.ts";

const GONE = {
  owner: "endpoint 1f2e",
  reason: "ip link show tsh1f2e: ENODEV: the container's link is gone; restart the container",
};
const UNPLUGGED = { owner: "network 3d4c", reason: "parent lan0 is gone" };

describe("errors of a soak", () => {
  const happened = (what: string, from: number, to: number): Happened => ({
    fault: FAULTS.find((fault) => fault.what === what) ?? assert.fail(what),
    from,
    to,
  });
  const past = [
    happened("tsnet killed", 0, Infinity),
    happened("engine killed", 1000, 2000),
    happened("parent unplugged", 3000, 4000),
  ];
  const errors = (line: object) =>
    unexplainedErrors(`{"level":40,"time":1}\n${JSON.stringify({ level: 50, ...line })}\n`, past);

  it("are those that the fault under way explains, and for a while those of what a killed engine forgot", () => {
    assert.deepEqual(errors({ time: 1500, ...GONE }), []);
    assert.deepEqual(errors({ time: 2000 + FORGOTTEN_MS, ...GONE }), []);
    assert.deepEqual(errors({ time: 3500, ...UNPLUGGED }), []);
  });

  it("are all the others, and whatever is no line of the log", () => {
    for (const line of [
      { time: 999, ...GONE },
      { time: 2001 + FORGOTTEN_MS, ...GONE },
      { time: 3500, ...UNPLUGGED, owner: "endpoint 1f2e" },
      { time: 3500, ...UNPLUGGED, reason: "ip link add: EEXIST" },
      { time: 4001, ...UNPLUGGED },
      { time: 1500, msg: "repair failed; will try again" },
      { time: 1500, level: 60, ...UNPLUGGED },
    ])
      assert.equal(errors(line).length, 1, JSON.stringify(line));
    assert.deepEqual(unexplainedErrors("TypeError: x is undefined\n    at main.js:1\n", past).length, 2);
  });
});
