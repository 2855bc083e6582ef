import type { Context, Runnable, Suite } from "mocha";

/** Where a skip's reason is kept: on mocha's own object, since the reporter may be another instance of its module. */
const REASON = Symbol.for("tsnet.skip-reason");

interface Skipped {
  [REASON]?: string;
}

/**
 * Skips the test that runs, or in a `before` hook everything in its suite, for a reason that the run's list of
 * skips says. `scripts/test` fails on any.
 */
export function skip(context: Context, reason: string): never {
  const running = context.runnable();
  const ofSuite = running.title.startsWith('"before all"');
  const target = ofSuite ? running.parent : (context.currentTest ?? running);
  Object.assign(target ?? running, { [REASON]: reason });
  context.skip();
}

/** Why a pending test is skipped, and what is with it: the test itself, or a suite that is skipped as a whole. */
export function skipOf(test: Runnable): { readonly reason: string; readonly skipped: Runnable | Suite } {
  for (let at: ((Runnable | Suite) & Skipped) | undefined = test; at; at = at.parent) {
    if (at[REASON] !== undefined) return { reason: at[REASON], skipped: at };
  }
  return { reason: "no reason given", skipped: test };
}
