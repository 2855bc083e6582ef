import { ENGINE_LINES, type EngineLine } from "../lab/engines.ts";
import { engineOrSkip } from "../support/engine-or-skip.ts";
import { started } from "./machines.ts";
import { Site } from "./site.ts";

/** A test takes a few seconds; a machine that does other things as well may need ten times that. */
const BUSY_MS = 120_000;

/**
 * Defines the same tests for every engine that the lab has. An engine that cannot be fetched is skipped
 * with one line that says so. The host is cleared after the last test of the engine; tests that share no
 * containers also clear it after each.
 */
export function onEachEngine(subject: string, define: (site: Site) => void): void {
  describe(subject, () => {
    for (const line of ENGINE_LINES)
      describe(`engine ${line}`, function () {
        this.timeout(BUSY_MS);
        onEngine(line, define);
      });
  });
}

/** Defines tests within a suite for one engine, as `onEachEngine` does for each. */
export function onEngine(line: EngineLine, define: (site: Site) => void): void {
  const site = new Site(line);
  before(async function () {
    // The first run on a machine downloads the engine.
    this.timeout(900_000);
    await engineOrSkip(this, site.open());
  });
  define(site);
  after(() => site.clear());
}

/** The sites of all engines that run by now. */
async function running(): Promise<Site[]> {
  const sites = started().map((line) => new Site(line));
  const opened = await Promise.allSettled(sites.map((site) => site.open()));
  return sites.filter((_, index) => opened[index]?.status === "fulfilled");
}

/**
 * Makes of something that waits for most of its time one that is done on all engines that run at once, when the first
 * one's turn comes. Each is cleared after it, and told how it went when its own turn comes.
 */
export function allAtOnce(work: (site: Site) => Promise<void>): (site: Site) => Promise<void> {
  const outcomes = new Map<string, Promise<void>>();
  return async (site) => {
    if (!outcomes.has(site.line))
      for (const other of await running()) {
        const outcome = work(other).finally(() => other.clear());
        // Told when its own turn comes.
        outcome.catch(() => undefined);
        outcomes.set(other.line, outcome);
      }
    await Promise.allSettled(outcomes.values());
    await outcomes.get(site.line);
  };
}
