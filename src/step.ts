import type { Logger } from "pino";
import { TsnetError, reason } from "./errors.ts";

/** Whether a step changed something; a text if that was there already, and says how it was: `mtu 1300`. */
export type Applied = boolean | string;

/** One reversible change to the host or the store. Both directions are idempotent. */
export interface Step {
  /** What is changed, as iproute2 or iptables would say it, its kind first: `link ts-1f2e type bridge`. */
  readonly what: string;
  /** The setting that it keeps, as in /proc/sys: whoever writes it gives a reason to look. */
  readonly setting?: string;
  /** Makes it so. Resolves to false when it was so already; rollback then leaves it alone. */
  apply(): Promise<Applied>;
  /** Makes it not so. Being absent already is success. */
  revert(): Promise<void>;
}

/** What a step changes: link, address, route, neighbour, sysctl, rules, ports, relay, flows, firewalld, record. */
export function kindOf({ what }: Step): string {
  return what.split(" ", 1)[0] ?? "";
}

/**
 * A step whose work others need as well: it is reverted with the last of them.
 *
 * @param others who is left, asked when it is to be reverted
 */
export function untilLast(step: Step, others: () => readonly unknown[]): Step {
  return {
    ...step,
    revert: async () => {
      if (others().length === 0) await step.revert();
    },
  };
}

/**
 * What is told about steps while they run: `done` for each step that changed something, `undone` for each one taken
 * back.
 */
export interface StepLog {
  done(step: Step): void;
  undone(step: Step, error?: unknown): void;
}

/** Tells the log of a network's steps: what is done at level debug, and what could not be undone. */
export function stepLog(parent: Logger, network: string): StepLog {
  const log = parent.child({ network });
  return {
    done: ({ what }) => {
      log.debug({ step: what }, "applied");
    },
    undone: ({ what }, error) => {
      if (error) log.warn({ step: what, err: error }, "could not be reverted");
      else log.debug({ step: what }, "reverted");
    },
  };
}

/** Applies one step. Resolves to whether it changed something. */
export async function applyOne(step: Step, log: StepLog): Promise<Applied> {
  const changed = await step.apply();
  if (changed) log.done(step);
  return changed;
}

/**
 * Applies the steps in order. When one fails, those that changed something are reverted, last first, and
 * the failure is thrown. What could not be reverted is told to the log and left for the reconciler; then the first
 * step, the record of what there may be, is left as well.
 */
export async function applyAll(steps: readonly Step[], log: StepLog): Promise<void> {
  const changed: Step[] = [];
  for (const step of steps) {
    try {
      // A step that fails half-way may have changed something, and its revert does no harm where it has not.
      changed.push(step);
      if (!(await applyOne(step, log))) changed.pop();
    } catch (error) {
      await rollBack(changed, steps[0], log);
      throw error;
    }
  }
}

async function rollBack(changed: readonly Step[], record: Step | undefined, log: StepLog): Promise<void> {
  let failed = false;
  for (const step of changed.toReversed()) {
    if (failed && step === record) return;
    try {
      await step.revert();
      log.undone(step);
    } catch (error) {
      failed = true;
      log.undone(step, error);
    }
  }
}

/**
 * Applies the steps of what is there already, past any failure, then throws what failed as one error. Nothing is taken
 * back: somebody uses it.
 */
export async function applyAgain(steps: readonly Step[], log: StepLog): Promise<void> {
  const failures: unknown[] = [];
  for (const step of steps)
    try {
      await applyOne(step, log);
    } catch (error) {
      failures.push(error);
    }
  throwAll(failures);
}

/** Reverts every step, last first, past any failure, then throws what failed as one error. */
export async function revertAll(steps: readonly Step[], log: StepLog): Promise<void> {
  const failures: unknown[] = [];
  for (const step of steps.toReversed()) {
    try {
      await step.revert();
      log.undone(step);
    } catch (error) {
      log.undone(step, error);
      failures.push(error);
    }
  }
  throwAll(failures);
}

function throwAll(failures: readonly unknown[]): void {
  if (failures.length === 1) throw failures[0];
  if (failures.length > 1) throw new TsnetError("kernel", failures.map(reason).join("; "));
}

/**
 * Applies every step again and reports each that was not as it should be.
 *
 * @returns what could not be repaired, one line each
 */
export async function repairAll(
  steps: readonly Step[],
  onDrift: (step: Step, before?: string) => void,
): Promise<string[]> {
  const failures: string[] = [];
  for (const step of steps) {
    try {
      const applied = await step.apply();
      if (applied) onDrift(step, applied === true ? undefined : applied);
    } catch (error) {
      failures.push(reason(error));
    }
  }
  return failures;
}
