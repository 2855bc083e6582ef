import assert from "node:assert/strict";
import { type Comparison, judge } from "../../bench/comparison.ts";

const rate = (tsnet: number[], engine: number[], goal = 1): Comparison => ({
  ...{ what: "traffic", unit: "Gbit/s", goal },
  samples: { tsnet, engine },
});
const SPREAD = [8, 9, 10, 11, 12, 13, 14];

describe("a comparison", () => {
  it("is met by the medians", () => {
    assert.deepEqual(outcome(SPREAD, SPREAD), "met");
    assert.equal(judge(rate([20], [10])).ratio, 2);
    assert.deepEqual(judge(rate([20], [10])).interval, [2, 2]);
  });

  it("is even where parity is missed by no more than chance", () => {
    assert.equal(outcome([...SPREAD, 9.9], SPREAD), "even");
  });

  it("is missed where it is missed by more, or where more than parity is asked for", () => {
    assert.equal(outcome([4, 4.5, 5, 5.5, 6], SPREAD), "missed");
    assert.equal(judge(rate(SPREAD, SPREAD, 1.5)).outcome, "missed");
  });

  it("of times is met by the lower", () => {
    const times: Comparison = {
      ...{ what: "start", unit: "ms", goal: 0.5 },
      samples: { tsnet: [10], engine: [20] },
    };
    assert.equal(judge(times).outcome, "met");
    assert.equal(judge({ ...times, goal: 0.4 }).outcome, "missed");
  });
});

function outcome(tsnet: number[], engine: number[]): string {
  return judge(rate(tsnet, engine)).outcome;
}
