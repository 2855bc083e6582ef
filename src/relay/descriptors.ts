import { readFileSync } from "node:fs";

/**
 * Descriptors that relays may have at a time: half of what this process may have in all (proc_pid_limits(5)), so that
 * clients, of whom there may be any number, leave some for everything else.
 */
export class DescriptorBudget {
  #left = Math.floor(limit() / 2);

  /** Takes so many for a client. @returns false if there are not so many left for clients. */
  take(count: number): boolean {
    if (count > this.#left) return false;
    this.#left -= count;
    return true;
  }

  /** Gives so many back. */
  give(count: number): void {
    this.#left += count;
  }
}

function limit(): number {
  const [, soft] = /^Max open files +(\d+)/m.exec(readFileSync("/proc/self/limits", "utf8")) ?? [];
  return soft === undefined ? Infinity : Number(soft);
}
