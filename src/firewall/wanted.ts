import { type EngineBridge, STANDING, standingRules } from "./layout.ts";
import { entrance } from "./port-rules.ts";
import { type FamilyRule, chainKey, chainOf, commentOf, ruleKey } from "./rule.ts";
import type { Saved } from "./saved.ts";

const STANDING_CHAINS: ReadonlySet<string> = new Set(STANDING.map(chainKey));

/**
 * What one family's tables should have in tsnet's own chains: the rules of networks and endpoints, and what holds them
 * together. The standing chains and their rules are there exactly as long as any network has a rule, and every other
 * chain as long as anything is in it, so that the last network leaves nothing behind.
 */
export class WantedRules {
  readonly #chains = new Map<string, Set<string>>();
  readonly #owners = new Map<string, Map<string, FamilyRule>>();
  #touched = new Set<string>();
  #engineBridges: readonly EngineBridge[];

  /** The rules of networks that are there already; every chain counts as touched. */
  constructor(saved: Saved, engineBridges: readonly EngineBridge[]) {
    this.#engineBridges = engineBridges;
    for (const [key, specs] of saved.own) {
      const chain = chainOf(key);
      for (const spec of specs) if (commentOf(spec)) this.add({ spec, ...chain });
    }
    this.#touched = new Set([...saved.own.keys(), ...this.#chains.keys()]);
  }

  /** The rules of each chain in order, by its key. */
  get chains(): ReadonlyMap<string, ReadonlySet<string>> {
    return this.#chains;
  }

  /** Comments of every network that has rules. */
  get owners(): string[] {
    return [...this.#owners.keys()];
  }

  /** The rules of the network with that comment, by their keys. */
  rulesOf(comment: string): ReadonlyMap<string, FamilyRule> {
    return this.#owners.get(comment) ?? new Map<string, FamilyRule>();
  }

  /** Keys of the chains that may have changed since this was asked last. */
  takeTouched(): ReadonlySet<string> {
    const touched = this.#touched;
    this.#touched = new Set();
    return touched;
  }

  /**
   * Adds a network's rule.
   *
   * @returns false if it was there already
   */
  add(rule: FamilyRule): boolean {
    const owner = commentOf(rule.spec) ?? "";
    const key = ruleKey(rule);
    const rules = this.#owners.get(owner) ?? new Map<string, FamilyRule>();
    if (rules.has(key)) return false;
    if (this.#owners.size === 0) this.#open();
    this.#owners.set(owner, rules.set(key, rule));
    this.#put(rule);
    return true;
  }

  /**
   * Removes a network's rule.
   *
   * @returns false if it was not there
   */
  remove(rule: FamilyRule): boolean {
    const owner = commentOf(rule.spec) ?? "";
    const rules = this.#owners.get(owner);
    if (!rules?.delete(ruleKey(rule))) return false;
    this.#take(rule);
    if (rules.size === 0) this.#owners.delete(owner);
    if (this.#owners.size === 0) this.#close();
    return true;
  }

  /** Tells which bridges hold the engine's own containers. */
  setEngineBridges(bridges: readonly EngineBridge[]): void {
    const before = standingRules(this.#engineBridges);
    this.#engineBridges = bridges;
    if (this.#owners.size === 0) return;
    const after = standingRules(bridges);
    const keys = new Set(after.map(ruleKey));
    for (const rule of before) if (!keys.has(ruleKey(rule))) this.#take(rule);
    for (const rule of after) this.#put(rule);
  }

  #open(): void {
    for (const key of STANDING_CHAINS) this.#rules(key);
    for (const rule of standingRules(this.#engineBridges)) this.#put(rule);
  }

  #close(): void {
    for (const key of this.#chains.keys()) this.#touched.add(key);
    this.#chains.clear();
  }

  #put(rule: FamilyRule): void {
    this.#rules(chainKey(rule)).add(rule.spec);
    this.#touched.add(chainKey(rule));
  }

  #take(rule: FamilyRule): void {
    const key = chainKey(rule);
    const rules = this.#rules(key);
    rules.delete(rule.spec);
    if (rules.size > 0 || STANDING_CHAINS.has(key)) return;
    this.#chains.delete(key);
    const jump = entrance(rule);
    if (jump) this.#take(jump);
  }

  /** The rules of a chain, which is made with the way into it where it is not there. */
  #rules(key: string): Set<string> {
    this.#touched.add(key);
    const there = this.#chains.get(key);
    if (there) return there;
    const made = new Set<string>();
    this.#chains.set(key, made);
    const jump = entrance(chainOf(key));
    if (jump) this.#put(jump);
    return made;
  }
}
