import type { Context, Runnable, Suite } from "mocha";

/** Where a skip's reason is kept: on mocha's own object, since the reporter may be another instance of its module. */
const REASON = Symbol.for("tsnet.skip-reason");

interface Skipped {
  [REASON]?: string;
}

/**
 * Skips the test that runs, or in a `before` hook everything in its suite, for a reason that the run's list of
 * skips says. `scripts/test` fails on every reason that is not on its own list.
 */
export function skip(context: Context, reason: string): never {
  const running = context.runnable();
  const ofSuite = running.title.startsWith('"before all"');
  const target = ofSuite ? running.parent : (context.currentTest ?? running);
  Object.assign(target ?? running, { [REASON]: reason });
  context.skip();
}

/** Why a pending test is skipped, as its own or an outer suite's skip said it. */
export function skipReason(test: Runnable): string {
  for (let at: ((Runnable | Suite) & Skipped) | undefined = test; at; at = at.parent) {
    if (at[REASON] !== undefined) return at[REASON];
  }
  return "no reason given";
}
