import { ENGINE_LINES, EngineUnavailableError } from "../lab/engines.ts";
import { skip } from "../support/skip.ts";
import { Site } from "./site.ts";

/** Defines tests for the newest engine only, where the engine makes no difference; otherwise as `onEachEngine`. */
export function onNewestEngine(subject: string, define: (site: Site) => void): void {
  describe(subject, () => {
    const site = new Site(ENGINE_LINES[ENGINE_LINES.length - 1] ?? ENGINE_LINES[0]);
    before(async function () {
      // The first run on a machine downloads the engine.
      this.timeout(900_000);
      try {
        await site.open();
      } catch (error) {
        if (!(error instanceof EngineUnavailableError)) throw error;
        skip(this, error.message);
      }
    });
    define(site);
    after(() => site.clear());
  });
}
