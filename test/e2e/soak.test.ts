import { soak } from "../soak/soak.ts";
import { onNewestEngine } from "./newest-engine.ts";

/** Without the end. */
const FOR_MS = 120_000;
/** `npm run soak` is the long one, with another seed each time. */
const SEED = 20_261_121;
const LIMIT_MS = 300_000;

onNewestEngine("soak", (site) => {
  it("works after each of many random operations and faults, and leaves the host as it was", async function () {
    this.timeout(LIMIT_MS);
    await soak(site, {
      seed: SEED,
      forMs: FOR_MS,
      progress: (line) => {
        console.log(`        ${line}`);
      },
    });
  });
});
