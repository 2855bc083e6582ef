import type { Driver } from "../driver.ts";
import { TsnetError, reason } from "../errors.ts";
import type { Firewall } from "../firewall/firewall.ts";
import { watchLegacyRules } from "../kernel/iptables/legacy-rules.ts";
import { watchNftRules } from "../kernel/iptables/nft-events.ts";
import { ruleComment } from "../names.ts";
import type { State } from "../store/state.ts";
import type { Health } from "./health.ts";
import type { Schedule } from "./schedule.ts";
import type { Sweep } from "./sweep.ts";

/** Milliseconds to wait after a change before looking: changes come in bursts. */
const SETTLE_MS = 100;
/** The same once so many looks in a row have found something: somebody answers each repair. */
const CONTESTED = { looks: 5, settleMs: 1000 } as const;
/** Looks in a row after which that is told of: an engine that starts is done by then. */
const TOLD_LOOKS = 20;
const KEY = "rules";

/** Keeps the firewall's rules as the records say. */
export class RuleRepair {
  readonly #driver: Driver;
  readonly #state: State;
  readonly #firewall: Firewall;
  readonly #sweep: Pick<Sweep, "rules">;
  readonly #health: Health;
  readonly #schedule: Schedule;
  /** Why what holds all rules together could not be put right; empty if it could. */
  #unsettled = "";
  /** Looks in a row that have found something to put right. */
  #foundInRow = 0;

  constructor(
    driver: Driver,
    state: State,
    firewall: Firewall,
    sweep: Pick<Sweep, "rules">,
    health: Health,
    schedule: Schedule,
  ) {
    this.#driver = driver;
    this.#state = state;
    this.#firewall = firewall;
    this.#sweep = sweep;
    this.#health = health;
    this.#schedule = schedule;
  }

  /** Looks whenever somebody else has changed rules. @returns stops that */
  watch(): () => void {
    const onRules = () => {
      const isContested = this.#foundInRow >= CONTESTED.looks;
      this.#schedule.soon(KEY, isContested ? CONTESTED.settleMs : SETTLE_MS, () => this.#look());
    };
    const stops = [watchNftRules(() => this.#firewall.processes, onRules), watchLegacyRules(onRules)];
    return () => {
      for (const stop of stops) stop();
    };
  }

  /** Puts chains, jumps and standing rules right, without which no network's rules are worth anything. */
  async chains(): Promise<void> {
    try {
      const changes = await this.#firewall.repairChains();
      for (const change of changes) this.#health.repaired("rules", change);
      // Without the way there no rule of theirs was asked.
      if (changes.length > 0)
        await Promise.all(this.#state.networks().map((one) => this.#driver.onRules(one)));
      this.#unsettled = "";
    } catch (error) {
      this.#unsettled = reason(error);
      for (const { id } of this.#state.networks()) this.#report(id, "");
      throw error;
    }
  }

  /**
   * Puts a network's rules right.
   *
   * @param found something of its plan was not as it should be: rules, perhaps
   */
  async network(id: string, found: boolean): Promise<void> {
    if (!(await this.#network(id, found))) this.#schedule.later(KEY, () => this.#look());
  }

  /** @returns false if it could not be done: whatever is wrong with them, the other networks must have theirs */
  async #network(id: string, found = false): Promise<boolean> {
    return await this.#driver.exclusively(id, async () => {
      const network = this.#state.network(id);
      if (!network) return true;
      try {
        const wanted = this.#driver.rules(network);
        const { missing, extra } = await this.#firewall.repair(ruleComment(id), wanted);
        for (const rule of missing) this.#health.repaired("rules", rule);
        for (const rule of extra) this.#health.repaired("orphan", `rule ${rule}`);
        if (found || missing.length + extra.length > 0) await this.#driver.onRules(network);
        this.#report(id, "");
        return true;
      } catch (error) {
        this.#report(id, reason(error));
        return false;
      }
    });
  }

  #report(id: string, text: string): void {
    this.#health.report(`rules ${id}`, this.#unsettled || text);
  }

  /** Puts all of them right, and nothing else: what changes them most often is the engine, with rules of its own. */
  async #look(): Promise<void> {
    await this.#firewall.othersDone();
    const before = this.#health.repairs;
    this.#firewall.forget();
    await this.chains();
    const failed: string[] = [];
    for (const { id } of this.#state.networks()) if (!(await this.#network(id))) failed.push(id);
    await this.#sweep.rules();
    if (failed.length > 0)
      throw new TsnetError("kernel", `rules of network ${failed.join(", ")} cannot be put right`);
    const found = this.#health.repairs > before;
    this.#foundInRow = found ? this.#foundInRow + 1 : 0;
    if (this.#foundInRow === 0) this.#health.report("rules", "");
    else if (this.#foundInRow >= TOLD_LOOKS)
      this.#health.report("rules", "another program changes tsnet's rules each time they are put right");
    // Whoever takes rules away by several commands may have gone on meanwhile.
    if (found) this.#schedule.later(KEY, () => this.#look());
  }
}
