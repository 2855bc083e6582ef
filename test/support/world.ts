import type { Step } from "../../src/step.ts";

/** When a step fails: before it has changed anything, or after it has. */
export type Moment = "before" | "after";

/** What steps work on in place of a host: a set of things, a list of what was done, and faults on request. */
export class World {
  /** What there is now. */
  readonly things = new Set<string>();
  /** What changed, in order: `+thing`, `-thing`. */
  readonly events: string[] = [];
  /** Which `apply thing` and `revert thing` throw, and when. */
  readonly faults = new Map<string, Moment>();
  /** Waited for before each `apply thing` and `revert thing`. */
  pause: (call: string) => Promise<void> = () => Promise.resolve();

  /** A step that makes the thing be there. */
  step(thing: string): Step {
    return {
      what: thing,
      apply: async () => {
        if (this.things.has(thing) && !this.faults.has(`apply ${thing}`)) return false;
        await this.#change(`apply ${thing}`, `+${thing}`, () => this.things.add(thing));
        return true;
      },
      revert: async () => {
        if (!this.things.has(thing) && !this.faults.has(`revert ${thing}`)) return;
        await this.#change(`revert ${thing}`, `-${thing}`, () => this.things.delete(thing));
      },
    };
  }

  async #change(call: string, event: string, change: () => unknown): Promise<void> {
    await this.pause(call);
    const fault = this.faults.get(call);
    if (fault === "before") throw new Error(`${call}: fault before`);
    change();
    this.events.push(event);
    if (fault === "after") throw new Error(`${call}: fault after`);
  }
}
