import { isDeepStrictEqual } from "node:util";
import type { Family } from "../ip.ts";
import type { Iptables } from "../kernel/iptables/iptables.ts";
import { Limit } from "../lock.ts";
import { Remembered } from "../remembered.ts";
import { type EngineBridge, engineBridgesIn } from "./layout.ts";
import type { FamilyRule } from "./rule.ts";
import { type Saved, parseSaved } from "./saved.ts";
import { changesOf, transaction } from "./transaction.ts";
import { WantedRules } from "./wanted.ts";

/** How often a change is tried again while somebody else changes the tables as well. */
const RETRIES = 10;

interface Change {
  readonly add: readonly FamilyRule[];
  readonly remove: readonly FamilyRule[];
  readonly resolve: (changed: boolean) => void;
  readonly reject: (error: unknown) => void;
}

/** What is remembered of one family's tables. */
interface Memory {
  /** Before it was read; undefined where the kernel does not say. */
  readonly generation: number | undefined;
  readonly saved: Saved;
  readonly wanted: WantedRules;
  /** Keys of chains that were not as they should be when they were read. */
  unsettled: ReadonlySet<string>;
  /** Which chains, jumps and standing rules were not, as iptables says what is done about them. */
  drift: readonly string[];
}

/**
 * tsnet's rules of one address family. It remembers what is there, so that a change costs one transaction over
 * the chains that it touches and no reading; changes that arrive while one is under way go together in the next.
 */
export class FamilyRules {
  readonly #family: Family;
  readonly #iptables: Pick<Iptables, "restore" | "save">;
  readonly #generation: () => Promise<number | undefined>;
  /** Somebody was seen to have taken all of tsnet's chains away. */
  flushed = false;
  readonly #memory = new Remembered<Memory>();
  #engineBridges: readonly EngineBridge[] = [];
  /** Those that the rules were written for; undefined until they were read. */
  #bridgesThere: readonly EngineBridge[] | undefined;
  #waiting: Change[] = [];
  #working = false;
  #drift: string[] = [];
  /** What was written last has chains. */
  #hasChains = false;
  /** What was read while a change was under way would be out of date. */
  readonly #turns = new Limit(1);

  /** @param generation another number after each change to any rules; undefined where nothing tells of changes */
  constructor(
    family: Family,
    iptables: Pick<Iptables, "restore" | "save">,
    generation: () => Promise<number | undefined>,
  ) {
    this.#family = family;
    this.#iptables = iptables;
    this.#generation = generation;
  }

  /** Adds and deletes rules. Resolves to whether anything had to be changed. */
  change(add: readonly FamilyRule[], remove: readonly FamilyRule[]): Promise<boolean> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ add, remove, resolve, reject });
      if (!this.#working) void this.#work();
    });
  }

  /** Which chains, jumps and standing rules were put right by changes since this was asked last. */
  takeDrift(): string[] {
    const drift = this.#drift;
    this.#drift = [];
    return drift;
  }

  /** Tells which bridges hold the engine's own containers; takes effect with the next change. */
  setEngineBridges(bridges: readonly EngineBridge[]): void {
    this.#engineBridges = bridges;
    this.#memory.value?.wanted.setEngineBridges(bridges);
  }

  /** Forgets what was there: the next change reads it again. Somebody else has changed it. */
  forget(): void {
    this.#memory.forget();
  }

  /**
   * The same, unless it can be told that nobody has changed anything since it was read.
   *
   * @param generation what the number is now
   */
  forgetOld(generation: number | undefined): void {
    if (generation === undefined || generation !== this.#memory.value?.generation) this.forget();
  }

  /** The bridges that the rules which are there keep apart as the engine's. */
  async engineBridges(): Promise<EngineBridge[]> {
    return engineBridgesIn((await this.#turns.run(() => this.#read())).saved.own);
  }

  /** Comments of every network that has rules. */
  async owners(): Promise<string[]> {
    return await this.#turns.run(async () => (await this.#read()).wanted.owners);
  }

  /** The rules of the network with that comment, by their keys (see ruleKey). */
  async rulesOf(comment: string): Promise<ReadonlyMap<string, FamilyRule>> {
    return await this.#turns.run(async () => (await this.#read()).wanted.rulesOf(comment));
  }

  async #work(): Promise<void> {
    this.#working = true;
    while (this.#waiting.length > 0) {
      const batch = this.#waiting;
      this.#waiting = [];
      await this.#turns.run(() => this.#together(batch));
    }
    this.#working = false;
  }

  async #together(batch: readonly Change[]): Promise<void> {
    try {
      const changed = await this.#apply(batch);
      batch.forEach((change, index) => {
        change.resolve(changed[index] ?? false);
      });
    } catch (error) {
      this.forget();
      const [first, ...rest] = batch;
      if (rest.length === 0) first?.reject(error);
      // One of them cannot be done: the others must not fail with it.
      else for (const change of batch) await this.#together([change]);
    }
  }

  async #apply(batch: readonly Change[]): Promise<boolean[]> {
    for (let left = RETRIES; ; left -= 1) {
      const remembered = this.#memory.value !== undefined;
      const { saved } = await this.#read();
      try {
        return await this.#write(batch);
      } catch (error) {
        this.forget();
        // What was remembered may be out of date, and whoever flushes tables does so by several commands.
        const changed = remembered || !isDeepStrictEqual((await this.#read()).saved, saved);
        if (!changed || left === 0) throw error;
      }
    }
  }

  async #write(batch: readonly Change[]): Promise<boolean[]> {
    const memory = await this.#read();
    const { saved, wanted, unsettled } = memory;
    const changed = batch.map(({ add, remove }) => {
      const added = add.filter((rule) => wanted.add(rule));
      const removed = remove.filter((rule) => wanted.remove(rule));
      return added.length + removed.length > 0;
    });
    const bridges = this.#engineBridges;
    const touched = new Set([...unsettled, ...wanted.takeTouched()]);
    // Most changes are of rules that are there, as plans are looked at; what nobody has touched need not be compared.
    if (touched.size > 0) {
      const { text, done } = transaction(this.#family, saved, wanted.chains, touched);
      if (text !== "") await this.#iptables.restore(text);
      done();
    }
    this.#hasChains = wanted.chains.size > 0;
    this.#bridgesThere = bridges;
    memory.unsettled = new Set();
    this.#drift.push(...memory.drift);
    memory.drift = [];
    return changed;
  }

  async #read(): Promise<Memory> {
    return this.#memory.value ?? (await this.#memory.fill(() => this.#there()));
  }

  async #there(): Promise<Memory> {
    const generation = await this.#generation();
    const saved = parseSaved(await this.#iptables.save());
    if (this.#hasChains && saved.own.size === 0) this.flushed = true;
    this.#bridgesThere ??= engineBridgesIn(saved.own);
    const wanted = new WantedRules(saved, this.#bridgesThere);
    const touched = wanted.takeTouched();
    const { text } = transaction(this.#family, saved, wanted.chains, touched);
    // An engine's bridge that came or went is no drift.
    wanted.setEngineBridges(this.#engineBridges);
    return {
      generation,
      saved,
      wanted,
      unsettled: text === "" ? new Set() : touched,
      drift: wanted.chains.size > 0 ? changesOf(text) : [],
    };
  }
}
