import assert from "node:assert/strict";
import { NEWEST } from "../lab/engines.ts";
import { Ground } from "../soak/ground.ts";
import { soak } from "../soak/soak.ts";
import { engineOrSkip } from "../support/engine-or-skip.ts";

/** Without the end. */
const FOR_MS = 120_000;
/** `npm run soak` is the long one, with another seed each time. */
const SEED = 20_261_121;
const LIMIT_MS = 900_000;

describe("soak", function () {
  this.timeout(LIMIT_MS);
  let started: Ground | undefined;

  before(async function () {
    started = await engineOrSkip(this, Ground.start(NEWEST));
  });
  after(() => started?.stop());

  it("works after each of many random operations and faults, and leaves the host as it was", async () => {
    await soak(started ?? assert.fail(), {
      seed: SEED,
      forMs: FOR_MS,
      progress: (line) => {
        console.log(`        ${line}`);
      },
    });
  });
});
