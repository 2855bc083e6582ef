import { syncBuiltinESMExports } from "node:module";
import { mock } from "node:test";
import { setImmediate as turn } from "node:timers/promises";

/** A clock that stands still for whatever waits with setTimeout, until it is told to go on. */
export class StoppedClock {
  constructor() {
    mock.timers.enable({ apis: ["setTimeout"] });
    // Else what was imported by its name before would be the real one.
    syncBuiltinESMExports();
  }

  /** Lets time pass, and what waited for it begin. */
  async pass(ms: number): Promise<void> {
    mock.timers.tick(ms);
    for (let turns = 0; turns < 5; turns += 1) await turn();
  }

  /** Lets it run again. What waits never ends. */
  release(): void {
    mock.timers.reset();
    syncBuiltinESMExports();
  }
}
