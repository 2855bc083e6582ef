import { SysctlWatch } from "../kernel/sysctl-watch.ts";
import { type Step, kindOf, repairAll } from "../step.ts";
import type { Health } from "./health.ts";
import type { Schedule } from "./schedule.ts";

/** Milliseconds to wait after a setting was written before looking: whoever writes one writes more. */
const SETTLE_MS = 100;

/** A plan that is to be looked at. */
export interface Planned {
  /** Whose it is, as in {@link Health.degraded}. */
  readonly owner: string;
  /** Its steps, asked for each time: what is seen while one is applied may be added to the record. */
  plan(): readonly Step[];
  /** Looks at it once more, when one of its settings was written. */
  look(): Promise<unknown>;
  /** Puts right what the plan rests on, if a step failed: a bridge that is being deleted lets go of its ports first. */
  ground?(): Promise<unknown>;
  /** Asked afterwards for what no step could change. */
  trouble?(): Promise<string | undefined>;
}

/** Applies plans again, and looks after their settings. */
export class PlanRepair {
  readonly #health: Health;
  readonly #schedule: Schedule;
  readonly #settings = new SysctlWatch();
  #watching = false;

  constructor(health: Health, schedule: Schedule) {
    this.#health = health;
    this.#schedule = schedule;
  }

  /** From now on a plan is looked at as soon as somebody writes one of its settings. @returns stops that */
  watch(): () => void {
    this.#watching = true;
    return () => {
      this.#watching = false;
      this.#settings.close();
    };
  }

  /** Applies a plan again. @returns whether anything was repaired */
  async run(planned: Planned): Promise<boolean> {
    let repaired = false;
    const onDrift = (step: Step, before?: string) => {
      repaired = true;
      this.#health.repaired(kindOf(step), step.what, before);
    };
    let steps = planned.plan();
    let failures = await repairAll(steps, onDrift);
    if (failures.length > 0) {
      // A step may have failed because somebody was just deleting what an earlier one had found there.
      await planned.ground?.();
      failures = await repairAll((steps = planned.plan()), onDrift);
    }
    const text = [...failures, await planned.trouble?.()].filter(Boolean).join("; ");
    this.#health.report(planned.owner, text);
    this.#follow(steps, planned);
    return repaired;
  }

  /** Forgets the settings of links that are gone, and whose plan is not there any more. */
  sweep(): void {
    this.#settings.sweep((owner) => this.#health.isKnown(owner));
  }

  #follow(steps: readonly Step[], planned: Planned): void {
    if (!this.#watching) return;
    for (const { setting } of steps)
      if (setting !== undefined)
        this.#settings.follow(setting, planned.owner, () => {
          this.#schedule.soon(planned.owner, SETTLE_MS, () => planned.look());
        });
  }
}
