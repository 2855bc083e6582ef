import { NEWEST } from "../lab/engines.ts";
import { onEngine } from "./each-engine.ts";
import type { Site } from "./site.ts";

/** Defines tests for the newest engine only, where the engine makes no difference; otherwise as `onEachEngine`. */
export function onNewestEngine(subject: string, define: (site: Site) => void): void {
  describe(subject, () => {
    onEngine(NEWEST, define);
  });
}
