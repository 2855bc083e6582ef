import type { Logger } from "pino";
import type { Driver } from "./driver.ts";
import { reason } from "./errors.ts";
import type { Firewall } from "./firewall/firewall.ts";
import type { Host } from "./kernel/host.ts";
import { type Link, parseLink } from "./kernel/link.ts";
import { watchLegacyRules } from "./kernel/legacy-rules.ts";
import { watchRules } from "./kernel/nft-events.ts";
import { SysctlWatch } from "./kernel/sysctl-watch.ts";
import { type KernelEvent, RTM } from "./kernel/rtnetlink.ts";
import { Limit } from "./lock.ts";
import type { Endpoint } from "./model.ts";
import { LINK_GROUP, type LinkOwner, isContainerEnd, ownerOf, ruleComment } from "./names.ts";
import { ParentWatch } from "./parent-watch.ts";
import { type Step, repairAll } from "./step.ts";
import type { State } from "./store/state.ts";

/** Milliseconds between two looks at everything. */
const INTERVAL_MS = 60_000;
/** Milliseconds to wait after a change before looking: changes come in bursts, and most are tsnet's own. */
const LINK_SETTLE_MS = 100;
const RULE_SETTLE_MS = 100;
/** Milliseconds until a repair that failed is tried again. */
const RETRY_MS = 1000;

/** Networks that are looked at side by side: most of the time of a look goes by waiting for the kernel's answer. */
const ABREAST = 16;

/** Kinds of steps that change this process and not the host: sockets that keep ports, and what they serve. */
const PROCESS_KINDS: readonly string[] = ["ports", "relay"];

/** What runs beside the repair: telling the firewall of the engine's bridges, and deleting what the engine forgot. */
export interface Companions {
  /** A bridge came or went that may be an engine's. */
  onBridge(): Promise<void>;
  /** Compares with the engine; fails while no engine answers. */
  catchUp(): Promise<void>;
  /** The engine has taken an endpoint's link into its sandbox; there are neighbours beyond the host. */
  onMoved(endpoint: Endpoint): void;
}

/** Keeps the host as the records say: at start, after a kernel event, and on a timer. */
export class Reconciler {
  readonly #driver: Driver;
  readonly #state: State;
  readonly #host: Host;
  readonly #firewall: Firewall;
  readonly #companions: Companions;
  readonly #log: Logger;
  readonly #timers = new Map<string, { readonly timer: NodeJS.Timeout; readonly due: number }>();
  readonly #running = new Set<Promise<unknown>>();
  readonly #abreast = new Limit(ABREAST);
  readonly #degraded = new Map<string, string>();
  readonly #drift = new Map<string, number>();
  #repairs = 0;
  readonly #parents: ParentWatch;
  readonly #settings = new SysctlWatch();
  #starting = true;
  #watching = false;
  #stopped = false;
  #nameless: ReadonlySet<number> = new Set();
  #stopWatching: () => void = () => undefined;

  constructor(
    driver: Driver,
    state: State,
    host: Host,
    firewall: Firewall,
    companions: Companions,
    log: Logger,
  ) {
    this.#driver = driver;
    this.#state = state;
    this.#parents = new ParentWatch(driver, state);
    this.#host = host;
    this.#firewall = firewall;
    this.#companions = companions;
    this.#log = log;
  }

  /** How many things were not as they should be since the start, by kind: link, address, rules, sysctl, orphan. */
  get drift(): ReadonlyMap<string, number> {
    return this.#drift;
  }

  /** What cannot be repaired, by network or endpoint. */
  get degraded(): ReadonlyMap<string, string> {
    for (const owner of this.#degraded.keys()) {
      const [kind, id = ""] = owner.split(" ");
      const known = kind === "network" ? this.#state.network(id) : this.#state.networkOf(id);
      if (!known) this.#degraded.delete(owner);
    }
    return this.#degraded;
  }

  /** Watches, and puts everything right: what changes meanwhile is looked at again. */
  async start(): Promise<void> {
    const start = performance.now();
    this.#watch();
    await this.everything();
    this.#starting = false;
    const ms = Math.round(performance.now() - start);
    this.#log.info({ ms, drift: Object.fromEntries(this.#drift) }, "host is as recorded");
    this.#soon("everything", INTERVAL_MS, () => this.#periodically());
  }

  /** Stops watching and waits for a repair under way. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#stopWatching();
    this.#settings.close();
    for (const { timer } of this.#timers.values()) clearTimeout(timer);
    await Promise.all(this.#running);
  }

  #watch(): void {
    this.#watching = true;
    this.#host.watch((event) => {
      this.#onKernelEvent(event);
    });
    const onRules = () => {
      this.#soon("rules", RULE_SETTLE_MS, () => this.#rules());
    };
    const stops = [watchRules(() => this.#firewall.processes, onRules), watchLegacyRules(onRules)];
    this.#stopWatching = () => {
      for (const stop of stops) stop();
    };
  }

  /** Applies every plan again and sweeps what nobody wants. */
  async everything(): Promise<void> {
    this.#firewall.forget();
    await this.#bridges();
    await this.#abreast.each(this.#state.networks(), async ({ id }) => {
      await this.#whole(id);
      await this.#rulesOf(id);
    });
    this.#settings.sweep();
    await this.#sweepLinks();
    for (const entry of await this.#parents.orphans(this.#host)) {
      this.#count("orphan", entry.what);
      await entry.delete();
    }
    await this.#sweepRules();
    try {
      await this.#companions.catchUp();
    } catch (error) {
      this.#log.info({ reason: reason(error) }, "could not compare with the engine; will try again");
    }
  }

  async #periodically(): Promise<void> {
    await this.everything();
    this.#soon("everything", INTERVAL_MS, () => this.#periodically());
  }

  /** Puts the rules right, and nothing else: what changes them most often is the engine, with rules of its own. */
  async #rules(): Promise<void> {
    await this.#firewall.othersDone();
    const before = this.#repairs;
    this.#firewall.forget();
    await this.#settleRules();
    for (const { id } of this.#state.networks()) await this.#rulesOf(id);
    await this.#sweepRules();
    // Whoever takes rules away by several commands may have gone on meanwhile.
    if (this.#repairs > before) this.#soon("rules", RETRY_MS, () => this.#rules());
  }

  async #settleRules(): Promise<void> {
    if (await this.#firewall.settle()) this.#count("rules", "chains and jumps");
  }

  async #bridges(): Promise<void> {
    await this.#companions.onBridge();
    await this.#settleRules();
  }

  async #rulesOf(id: string): Promise<void> {
    await this.#driver.exclusively(id, async () => {
      const network = this.#state.network(id);
      if (!network) return;
      const { missing, extra } = await this.#firewall.repair(ruleComment(id), this.#driver.rules(network));
      for (const rule of missing) this.#count("rules", rule);
      for (const rule of extra) this.#count("orphan", `rule ${rule}`);
    });
  }

  /** Rules of networks that are not on record. */
  async #sweepRules(): Promise<void> {
    const known = new Set(this.#state.networks().map(({ id }) => ruleComment(id)));
    for (const owner of await this.#firewall.owners()) {
      if (known.has(owner)) continue;
      const { extra } = await this.#firewall.repair(owner, []);
      for (const rule of extra) this.#count("orphan", `rule ${rule}`);
    }
  }

  async #whole(id: string): Promise<void> {
    await this.#network(id);
    for (const endpoint of this.#state.endpoints(id)) await this.#endpoint(id, endpoint.id);
  }

  /** @returns whether anything was repaired */
  async #network(id: string): Promise<boolean> {
    return await this.#driver.exclusively(id, async () => {
      const network = this.#state.network(id);
      if (!network) return false;
      const trouble = () => this.#driver.trouble(network);
      const plan = this.#driver.networkPlan(network);
      const repaired = await this.#repair(`network ${id}`, plan, trouble);
      this.#watchSettings(plan, `network ${id}`, () => this.#network(id));
      return repaired;
    });
  }

  async #endpoint(networkId: string, id: string): Promise<void> {
    await this.#driver.exclusively(networkId, async () => {
      const network = this.#state.network(networkId);
      const endpoint = this.#state.endpoint(networkId, id);
      if (!network || !endpoint) return;
      const plan = this.#driver.endpointPlan(network, endpoint);
      await this.#repair(`endpoint ${id}`, plan);
      this.#watchSettings(plan, `endpoint ${id}`, () => this.#endpoint(networkId, id));
    });
  }

  /** Has the settings of a plan looked after as soon as somebody writes one. */
  #watchSettings(plan: readonly Step[], owner: string, look: () => Promise<unknown>): void {
    if (this.#stopped) return;
    for (const { what } of plan) {
      const [, name] = /^sysctl (\S+)=/.exec(what) ?? [];
      if (name)
        this.#settings.follow(name, () => {
          if (this.#watching) this.#soon(owner, LINK_SETTLE_MS, look);
        });
    }
  }

  /** @param trouble asked afterwards for what no step could change */
  async #repair(
    owner: string,
    plan: readonly Step[],
    trouble?: () => Promise<string | undefined>,
  ): Promise<boolean> {
    let repaired = false;
    const failures = await repairAll(plan, ({ what }) => {
      repaired = true;
      this.#count(what.split(" ", 1)[0] ?? "", what);
    });
    const text = [...failures, await trouble?.()].filter(Boolean).join("; ");
    if (text !== (this.#degraded.get(owner) ?? "")) this.#report(owner, text);
    return repaired;
  }

  /** Says once that something cannot be repaired, and once that it can again. */
  #report(owner: string, text: string): void {
    if (text) {
      this.#degraded.set(owner, text);
      this.#log.error({ owner, reason: text }, "degraded: cannot be repaired");
    } else {
      this.#degraded.delete(owner);
      this.#log.info({ owner }, "no longer degraded");
    }
  }

  /** Links that carry tsnet's mark but belong to nothing on record. */
  async #sweepLinks(): Promise<void> {
    this.#host.discardLeavings();
    const marked = (await this.#host.links.list()).filter(({ group }) => group === LINK_GROUP);
    const nameless = new Set(marked.filter(({ alias }) => !alias).map(({ index }) => index));
    for (const { name, kind, alias, index } of marked) {
      // The far end of a pair has no alias, and goes with its near end.
      if ((isContainerEnd(name) && kind === "veth") || this.#isWanted(alias)) continue;
      // A link gets its alias just after it was made: without one it is an orphan the second time it is seen.
      if (!alias && !this.#nameless.has(index)) continue;
      this.#count("orphan", `link ${name} of ${alias || "nobody"}`);
      await this.#host.discard(name);
    }
    this.#nameless = nameless;
  }

  #isWanted(alias: string): boolean {
    const owner = ownerOf(alias);
    if (owner?.kind === "network") return this.#state.network(owner.id) !== undefined;
    if (owner?.kind === "shim") return this.#state.endpoints(owner.id).length > 0;
    if (owner?.kind === "parent") return this.#parents.on(owner.id).length > 0;
    return owner !== undefined && this.#state.networkOf(owner.id) !== undefined;
  }

  #onKernelEvent(event: KernelEvent): void {
    const { type, payload } = event;
    if (type === RTM.NEWLINK || type === RTM.DELLINK) {
      this.#onLink(parseLink(payload), type === RTM.DELLINK);
    } else if (type === RTM.DELADDR || (type === RTM.NEWADDR && this.#parents.any)) {
      const index = payload.readUInt32LE(4);
      this.#soon(`addresses of ${String(index)}`, LINK_SETTLE_MS, () => this.#addresses(index));
    } else if (type === 0) {
      this.#soon("everything", LINK_SETTLE_MS, () => this.#periodically());
    } else {
      for (const { network, id } of this.#parents.cutOff(event))
        this.#soon(`endpoint ${id}`, LINK_SETTLE_MS, () => this.#endpoint(network, id));
    }
  }

  #onLink(link: Link, gone: boolean): void {
    for (const { id } of this.#parents.changed(link, gone))
      this.#soon(`parent of ${id}`, LINK_SETTLE_MS, () => this.#whole(id));
    // Changes to a port's flags are announced without its alias, and an alias can be cleared.
    const owner = ownerOf(link.alias) ?? this.#state.ownerOfLink(link.name);
    const moved = gone ? this.#parents.moved(owner) : undefined;
    if (moved) this.#companions.onMoved(moved);
    else if (owner) this.#soon(`${owner.kind} ${owner.id}`, LINK_SETTLE_MS, () => this.#ownedLink(owner));
    else if (link.kind === "bridge") this.#soon("bridges", LINK_SETTLE_MS, () => this.#bridges());
  }

  async #ownedLink({ kind, id }: LinkOwner): Promise<void> {
    const network = kind === "endpoint" ? this.#state.networkOf(id) : id;
    if (!network) return;
    if (kind === "endpoint") await this.#endpoint(network, id);
    // With it went what led to each endpoint, and nobody announces that.
    else if (kind === "shim") await this.#whole(id);
    // A bridge that had to be made again has no ports yet, and nobody announces that.
    else if (await this.#network(network))
      for (const { id } of this.#state.endpoints(network)) await this.#endpoint(network, id);
  }

  async #addresses(index: number): Promise<void> {
    const link = await this.#host.links.at(index);
    if (!link) return;
    const owner = ownerOf(link.alias);
    if (owner?.kind === "network") await this.#network(owner.id);
    if (owner?.kind === "shim") await this.#whole(owner.id);
    for (const { id } of this.#parents.on(link.name)) await this.#whole(id);
  }

  /** Runs once after a while; a second call before that changes nothing, but for a nearer time. */
  #soon(key: string, afterMs: number, fn: () => Promise<unknown>): void {
    if (this.#stopped) return;
    const due = performance.now() + afterMs;
    const waiting = this.#timers.get(key);
    if (waiting && waiting.due <= due) return;
    clearTimeout(waiting?.timer);
    const timer = setTimeout(() => {
      this.#timers.delete(key);
      const run = fn().catch((error: unknown) => {
        this.#log.error({ err: error }, "repair failed; will try again");
        this.#soon(key, RETRY_MS, fn);
      });
      this.#running.add(run);
      void run.finally(() => this.#running.delete(run));
    }, afterMs);
    this.#timers.set(key, { timer, due });
  }

  #count(kind: string, what: string): void {
    // What lives in this process is never there when it starts.
    if (this.#starting && PROCESS_KINDS.includes(kind)) return;
    this.#repairs++;
    this.#drift.set(kind, (this.#drift.get(kind) ?? 0) + 1);
    this.#log.warn({ kind, what }, "drift repaired");
  }
}
