import { FAMILIES, type Family, parseCidr } from "../ip.ts";
import { Iptables } from "../kernel/iptables/iptables.ts";
import { IptablesVariant } from "../kernel/iptables/variant.ts";
import { settled } from "../lock.ts";
import type { Step } from "../step.ts";
import { FamilyRules } from "./family.ts";
import type { Firewalld } from "./firewalld/firewalld.ts";
import { Forwarding } from "./forwarding.ts";
import { type EngineBridge, HOOKED } from "./layout.ts";
import { type FamilyRule, type Rule, ruleKey } from "./rule.ts";

/** All of tsnet's packet filter rules. */
export class Firewall {
  readonly #iptables: Record<Family, Iptables> = {
    4: new Iptables(4, HOOKED),
    6: new Iptables(6, HOOKED),
  };
  readonly #variant = new IptablesVariant();
  readonly #firewalld: Firewalld | undefined;
  /** Whether the host forwards packets at all. */
  readonly forwarding = new Forwarding(this.#iptables);
  readonly #families: Record<Family, FamilyRules> = {
    4: new FamilyRules(4, this.#iptables[4], () => this.#variant.generation()),
    6: new FamilyRules(6, this.#iptables[6], () => this.#variant.generation()),
  };

  /** @param firewalld that is asked to accept what these rules accept */
  constructor(firewalld?: Firewalld) {
    this.#firewalld = firewalld;
  }

  /**
   * What makes others let a bridge's packets pass.
   *
   * @param adopted the bridge was there before tsnet
   */
  admission(bridge: string, adopted: boolean): Step[] {
    return this.#firewalld ? [this.#firewalld.bridge(bridge, adopted)] : [];
  }

  /** Waits for others that are in the middle of changing rules, where they can tell. */
  async othersDone(): Promise<void> {
    await this.#firewalld?.idle();
  }

  /** The rules of one owner as a step: there together or not at all. */
  rules(what: string, rules: readonly Rule[]): Step {
    return {
      what,
      apply: () => this.#change(rules, (mine, some) => mine.change(some, [])),
      revert: async () => {
        await this.#change(rules, (mine, some) => mine.change([], some));
      },
    };
  }

  /** Tells which bridges hold the engine's own containers; no network may reach them once {@link repairChains} is done. */
  setEngineBridges(bridges: readonly EngineBridge[]): void {
    for (const family of FAMILIES) {
      const isOf = (subnet: string) => parseCidr(subnet).family === family;
      this.#families[family].setEngineBridges(
        bridges.map((bridge) => ({ ...bridge, subnets: bridge.subnets.filter(isOf) })),
      );
    }
  }

  /** The bridges that the rules which are there, of this daemon or of one before it, keep apart as the engine's. */
  async engineBridges(): Promise<EngineBridge[]> {
    return (await Promise.all(FAMILIES.map((family) => this.#families[family].engineBridges()))).flat();
  }

  /** Forgets what is remembered of the kernel's tables, since somebody else has changed them. */
  forget(): void {
    for (const family of FAMILIES) this.#families[family].forget();
  }

  /** The same, unless it can be told that nobody has. */
  async forgetOld(): Promise<void> {
    const generation = await this.#variant.generation();
    for (const family of FAMILIES) this.#families[family].forgetOld(generation);
  }

  /**
   * Puts chains, jumps, standing rules and policies right without changing any network's rules.
   *
   * @returns what was put right since it was done last, as iptables says it
   */
  async repairChains(): Promise<string[]> {
    await Promise.all(FAMILIES.map((family) => this.#families[family].change([], [])));
    const drift = FAMILIES.flatMap((family) => this.#families[family].takeDrift());
    for (const family of FAMILIES) {
      if (!this.#families[family].flushed) continue;
      drift.push(...(await this.forwarding.closeAgain(family)));
      this.#families[family].flushed = false;
    }
    return drift;
  }

  /** @throws {ConflictError} where the engine's rules are in the tables of the other iptables */
  async mustNotMix(): Promise<void> {
    await this.#variant.mustNotMix();
  }

  /** Processes whose changes to the tables are tsnet's own. */
  get processes(): ReadonlySet<number> {
    return new Set(FAMILIES.flatMap((family) => this.#iptables[family].pid ?? []));
  }

  /** Ends the processes that wait for rules, and leaves the system bus. */
  close(): void {
    this.#firewalld?.close();
    for (const family of FAMILIES) this.#iptables[family].close();
  }

  /**
   * Makes the rules of one owner exactly these. Reads the tables only after {@link forget}.
   *
   * @param comment that the owner's rules carry
   * @returns what was missing and what was too many, as iptables-save prints it
   */
  async repair(comment: string, wanted: readonly Rule[]): Promise<{ missing: string[]; extra: string[] }> {
    const result = { missing: [] as string[], extra: [] as string[] };
    for (const family of FAMILIES) {
      const mine = this.#families[family];
      const want = byKey(wanted.filter((rule) => rule.family === family));
      const there = await mine.rulesOf(comment);
      const missing = [...want].filter(([key]) => !there.has(key));
      const extra = [...there].filter(([key]) => !want.has(key));
      const rules = (entries: readonly [string, FamilyRule][]) => entries.map(([, rule]) => rule);
      if (missing.length + extra.length > 0) await mine.change(rules(missing), rules(extra));
      result.missing.push(...missing.map(([key]) => key));
      result.extra.push(...extra.map(([key]) => key));
    }
    return result;
  }

  /** Comments of every network that has rules. */
  async owners(): Promise<Set<string>> {
    const owners = await Promise.all(FAMILIES.map((family) => this.#families[family].owners()));
    return new Set(owners.flat());
  }

  /** Does something with the rules of each family, side by side; both have ended when it fails. */
  async #change(
    rules: readonly Rule[],
    act: (mine: FamilyRules, rules: readonly Rule[]) => Promise<boolean>,
  ): Promise<boolean> {
    const changed = await settled(
      FAMILIES.map(async (family) => {
        const some = rules.filter((rule) => rule.family === family);
        return some.length > 0 && (await act(this.#families[family], some));
      }),
    );
    return changed.includes(true);
  }
}

function byKey(rules: readonly FamilyRule[]): Map<string, FamilyRule> {
  return new Map(rules.map((rule) => [ruleKey(rule), rule]));
}
