import type { Logger } from "pino";
import type { State } from "../store/state.ts";

/** Kinds of steps that change this process and not the host: sockets that keep ports, and what they serve. */
const PROCESS_KINDS: readonly string[] = ["ports", "relay"];

/** What was not as it should be: how much of it was repaired, and what cannot be. */
export class Health {
  readonly #state: State;
  readonly #log: Logger;
  readonly #drift = new Map<string, number>();
  readonly #degraded = new Map<string, string>();
  #starting = true;

  constructor(state: State, log: Logger) {
    this.#state = state;
    this.#log = log;
  }

  /** How many things were not as they should be since the start, by kind: those of steps, rules and orphan. */
  get drift(): ReadonlyMap<string, number> {
    return this.#drift;
  }

  /** How many in all. */
  get repairs(): number {
    return [...this.#drift.values()].reduce((sum, count) => sum + count, 0);
  }

  /** What cannot be repaired: `network ID`, `rules ID` of a network, `endpoint ID`, `rules`, `records`, `engine` or `store`. */
  get degraded(): ReadonlyMap<string, string> {
    for (const owner of this.#degraded.keys()) if (!this.isKnown(owner)) this.#degraded.delete(owner);
    return this.#degraded;
  }

  /** Whether there is still such a network or endpoint, if it is one, named as in {@link degraded}. */
  isKnown(owner: string): boolean {
    const [kind, id] = owner.split(" ");
    if (id === undefined) return true;
    return kind === "endpoint"
      ? this.#state.networkOf(id) !== undefined
      : this.#state.network(id) !== undefined;
  }

  /** Everything was looked at once: from now on what lives in this process should be there as well. */
  started(): void {
    this.#starting = false;
  }

  /**
   * Something was not as it should be, and is again.
   *
   * @param before how it was, if it was there
   */
  repaired(kind: string, what: string, before?: string): void {
    if (this.#starting && PROCESS_KINDS.includes(kind)) return;
    this.#drift.set(kind, (this.#drift.get(kind) ?? 0) + 1);
    this.#log.warn({ kind, what, before }, "drift repaired");
  }

  /** Says once that something cannot be repaired, and once that it can again: then the text is empty. */
  report(owner: string, text: string): void {
    if (text === (this.#degraded.get(owner) ?? "")) return;
    if (text) {
      this.#degraded.set(owner, text);
      this.#log.error({ owner, reason: text }, "degraded: cannot be repaired");
    } else {
      this.#degraded.delete(owner);
      this.#log.info({ owner }, "no longer degraded");
    }
  }
}
