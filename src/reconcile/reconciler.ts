import { isDeepStrictEqual } from "node:util";
import type { Logger } from "pino";
import type { Driver } from "../driver.ts";
import type { Firewall } from "../firewall/firewall.ts";
import type { LinkAddress } from "../kernel/address.ts";
import type { Host } from "../kernel/host.ts";
import { type Link, parseLink } from "../kernel/link.ts";
import { type KernelEvent, RTM } from "../kernel/netlink/rtnetlink.ts";
import { type Route, parseRoute } from "../kernel/route.ts";
import { Limit } from "../lock.ts";
import type { Endpoint } from "../model.ts";
import { LEAVING_GROUP, type LinkOwner, isContainerEnd, ownerOf } from "../names.ts";
import type { State } from "../store/state.ts";
import { Health } from "./health.ts";
import { ParentWatch } from "./parent-watch.ts";
import { PlanRepair } from "./plan-repair.ts";
import { RuleRepair } from "./rule-repair.ts";
import { Schedule } from "./schedule.ts";
import { Sweep } from "./sweep.ts";

/** Milliseconds between two looks at everything. */
const INTERVAL_MS = 60_000;
/** Milliseconds to wait after a change before looking: changes come in bursts, and most are tsnet's own. */
const LINK_SETTLE_MS = 100;
/** The same where the network is just being changed: a look would keep it from containers that start with this one. */
const BUSY_SETTLE_MS = 500;
/** Milliseconds in which the engine has set up a link that it has taken into a sandbox. */
const MOVED_MS = 1000;

/** What is never done beside itself. */
const EVERYTHING = "everything";

/** Networks that are looked at side by side: most of the time of a look goes by waiting for the kernel's answer. */
const ABREAST = 16;

/** What is done beside the repair: the engine is asked, the firewall told of its bridges, and neighbours of moved links. */
export interface Companions {
  /** A bridge came or went that may be an engine's. */
  onBridge(): Promise<void>;
  /** Whether the engine says something new of bridges; undefined while it does not answer. */
  askForBridges(): Promise<boolean | undefined>;
  /** Ids of the networks that the engine has; undefined while it does not answer. */
  engineNetworks(): Promise<ReadonlySet<string> | undefined>;
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
  readonly #schedule: Schedule;
  readonly #rules: RuleRepair;
  readonly #plans: PlanRepair;
  /** What was found wrong so far. */
  readonly health: Health;
  readonly #abreast = new Limit(ABREAST);
  readonly #parents: ParentWatch;
  readonly #sweep: Sweep;
  /** A link's addresses, by its index, with which nothing had to be repaired. */
  readonly #addressesSeen = new Map<number, readonly LinkAddress[]>();
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
    this.health = new Health(state, log);
    this.#schedule = new Schedule(log);
    this.#sweep = new Sweep(state, host, firewall, this.#parents, this.health, () =>
      companions.engineNetworks(),
    );
    this.#rules = new RuleRepair(driver, state, firewall, this.#sweep, this.health, this.#schedule);
    this.#plans = new PlanRepair(this.health, this.#schedule);
  }

  /** Watches, and puts everything right: what changes meanwhile is looked at again. */
  async start(): Promise<void> {
    this.#watch();
    await this.#schedule.now(EVERYTHING, () => this.#first());
  }

  async #first(): Promise<void> {
    const start = performance.now();
    const done = await this.everything();
    this.health.started();
    const ms = Math.round(performance.now() - start);
    const drift = Object.fromEntries(this.health.drift);
    if (done) this.#log.info({ ms, drift }, "host is as recorded");
    else this.#log.error({ ms, drift }, "host is not as recorded; will try again");
    this.#schedule.soon(EVERYTHING, INTERVAL_MS, () => this.#periodically());
  }

  /** Stops watching and waits for a repair under way. */
  async stop(): Promise<void> {
    this.#stopWatching();
    await this.#schedule.stop();
  }

  #watch(): void {
    this.#host.watch((event) => {
      this.#onKernelEvent(event);
    });
    const stops = [this.#plans.watch(), this.#rules.watch()];
    this.#stopWatching = () => {
      for (const stop of stops) stop();
    };
  }

  /**
   * Applies every plan again and sweeps what nobody wants. What fails keeps nothing else from being done.
   *
   * @returns whether it all could be looked at; what cannot be repaired is told of as degraded
   */
  async everything(): Promise<boolean> {
    let done = true;
    const attempt = async (part: () => Promise<unknown>) => {
      try {
        await part();
      } catch (error) {
        done = false;
        this.#log.error({ err: error }, "repair failed; will try again");
      }
    };
    this.health.report("store", this.#state.trouble() ?? "");
    // The kernel tells of its links while programs tell of its rules.
    await Promise.all([
      attempt(async () => {
        this.#parents.learn(await this.#host.links.remember());
      }),
      attempt(async () => {
        await this.#firewall.forgetOld();
        await this.#bridges();
      }),
    ]);
    await this.#abreast.each(this.#state.networks(), ({ id }) =>
      attempt(async () => {
        const found = await this.#network(id);
        await this.#endpoints(id);
        await this.#rules.network(id, found);
      }),
    );
    this.#host.links.forget();
    this.#plans.sweep();
    this.#host.discardLeavings();
    await attempt(() => this.#sweep.prepare());
    await attempt(() => this.#sweep.links());
    await attempt(() => this.#sweep.entries());
    await attempt(() => this.#sweep.rules());
    return done;
  }

  /** The engine has deleted a network that no record is of: whatever the host still has of it goes at once. */
  async deleted(network: string): Promise<void> {
    await this.#driver.exclusively(network, () => this.#sweep.network(network));
    // It may have been the last of those without a record.
    await this.#sweep.prepare();
  }

  async #periodically(): Promise<void> {
    await this.everything();
    this.#schedule.soon(EVERYTHING, INTERVAL_MS, () => this.#periodically());
  }

  async #bridges(): Promise<void> {
    await this.#companions.onBridge();
    await this.#rules.chains();
    // The host need not wait for an engine that is just starting.
    this.#schedule.soon("engine's bridges", 0, () => this.#askForBridges());
  }

  async #askForBridges(): Promise<void> {
    const news = await this.#companions.askForBridges();
    if (news) await this.#bridges();
    if (news === undefined) this.#schedule.later("engine's bridges", () => this.#askForBridges());
  }

  async #whole(id: string): Promise<void> {
    await this.#network(id);
    await this.#endpoints(id);
  }

  /** @returns whether anything was repaired */
  async #network(id: string): Promise<boolean> {
    return await this.#driver.exclusively(id, () => this.#networkAlone(id));
  }

  /** The same where nothing else is under way on that network. */
  async #networkAlone(id: string): Promise<boolean> {
    const network = this.#state.network(id);
    if (!network) return false;
    return await this.#plans.run({
      owner: `network ${id}`,
      plan: () => this.#driver.networkPlan(network),
      look: () => this.#network(id),
      trouble: () => this.#driver.trouble(network),
    });
  }

  async #endpoint(networkId: string, id: string): Promise<void> {
    await this.#driver.exclusively(networkId, async () => {
      const network = this.#state.network(networkId);
      const endpoint = () => this.#state.endpoint(networkId, id);
      if (!network || !endpoint()) return;
      await this.#plans.run({
        owner: `endpoint ${id}`,
        plan: () => {
          const now = endpoint();
          return now ? this.#driver.endpointPlan(network, now) : [];
        },
        look: () => this.#endpoint(networkId, id),
        ground: () => this.#networkAlone(networkId),
      });
    });
  }

  async #endpoints(network: string): Promise<void> {
    for (const { id } of this.#state.endpoints(network)) await this.#endpoint(network, id);
  }

  #onKernelEvent(event: KernelEvent): void {
    const { type, payload } = event;
    if (type === RTM.NEWLINK || type === RTM.DELLINK) {
      this.#host.links.forget();
      this.#onLink(parseLink(payload), type === RTM.DELLINK);
    } else if (type === RTM.DELADDR || (type === RTM.NEWADDR && this.#parents.any)) {
      this.#onAddress(payload.readUInt32LE(4));
    } else if (type === 0) {
      this.#host.links.forget();
      this.#schedule.soon(EVERYTHING, LINK_SETTLE_MS, () => this.#periodically());
    } else {
      if (type === RTM.DELROUTE) this.#onLostRoute(parseRoute(payload));
      for (const { network, id } of this.#parents.cutOff(event))
        this.#schedule.soon(`endpoint ${id}`, LINK_SETTLE_MS, () => this.#endpoint(network, id));
    }
  }

  #onAddress(index: number): void {
    this.#schedule.soon(`addresses of ${index}`, LINK_SETTLE_MS, () => this.#addresses(index));
  }

  /** The route to a link's neighbours, without which its address is worth nothing. */
  #onLostRoute({ connected, link }: Route): void {
    if (!connected) return;
    this.#addressesSeen.delete(link);
    this.#onAddress(link);
  }

  #onLink(link: Link, gone: boolean): void {
    const concerned = this.#parents.changed(link, gone);
    for (const { id } of concerned)
      this.#schedule.soon(`parent of ${id}`, LINK_SETTLE_MS, () => this.#whole(id));
    if (!gone && concerned.length === 0 && this.#parents.on(link.name).length > 0)
      this.#schedule.soon(`links on ${link.name}`, LINK_SETTLE_MS, () => this.#linksOn(link));
    // Changes to a port's flags are announced without its alias, and an alias can be cleared.
    const owner = ownerOf(link.alias) ?? this.#state.ownerOfLink(link.name);
    const moved = gone ? this.#parents.moved(link, owner) : undefined;
    if (owner?.kind === "endpoint" && link.kind === "veth" && link.master === 0)
      this.#onFreePort(link, owner.id);
    if (moved) {
      const { network, id } = moved;
      this.#companions.onMoved(moved);
      // In its sandbox it has a name, which is to be remembered before its parent may go, and with that the link.
      this.#schedule.soon(`name of ${id}`, LINK_SETTLE_MS, () => this.#endpoint(network, id));
    }
    if (owner) {
      // The parent may have come since it was made.
      const afterMs = gone && isContainerEnd(link.name) ? MOVED_MS : this.#settleMs(owner);
      this.#schedule.soon(`${owner.kind} ${owner.id}`, afterMs, () => this.#ownedLink(owner));
    }
    if (!owner && link.kind === "bridge")
      this.#schedule.soon("bridges", LINK_SETTLE_MS, () => this.#bridges());
  }

  #settleMs(owner: LinkOwner): number {
    const network = this.#networkOf(owner);
    return network && this.#driver.isBusy(network) ? BUSY_SETTLE_MS : LINK_SETTLE_MS;
  }

  #networkOf({ kind, id }: LinkOwner): string | undefined {
    return kind === "endpoint" ? this.#state.networkOf(id) : id;
  }

  /** A bridge that goes lets go of its ports first, and they cannot be repaired before it. */
  #onFreePort({ name, group }: Link, endpoint: string): void {
    const network = this.#state.networkOf(endpoint);
    if (!network || group === LEAVING_GROUP) return;
    // The kernel answers when it is done with the bridge. Free is a port for an instant when it is made, too.
    this.#schedule.soon(`ports of ${network}`, 0, async () => {
      if ((await this.#host.links.get(name))?.master === 0) await this.#whole(network);
    });
  }

  async #ownedLink(owner: LinkOwner): Promise<void> {
    const { kind, id } = owner;
    const network = this.#networkOf(owner);
    if (!network) return;
    if (kind === "endpoint") await this.#endpoint(network, id);
    // With it went what led to each endpoint, and nobody announces that.
    else if (kind === "shim") await this.#whole(id);
    // A bridge that had to be made again has no ports yet.
    else if (await this.#network(network)) await this.#endpoints(network);
  }

  /** A link on a parent came or went; the kernel does not say which. */
  async #linksOn(parent: Link): Promise<void> {
    for (const { network, id } of await this.#parents.missing(this.#host, parent))
      await this.#endpoint(network, id);
  }

  async #addresses(index: number): Promise<void> {
    const link = await this.#host.links.at(index);
    if (!link) {
      this.#addressesSeen.delete(index);
      return;
    }
    // Every advertisement of a router's, and whatever renews a lease, announces addresses that are there already.
    const now = await this.#host.addresses.on(link);
    if (isDeepStrictEqual(now, this.#addressesSeen.get(index))) return;
    const { repairs } = this.health;
    // Forgotten meanwhile, it must be looked at again.
    this.#addressesSeen.set(index, now);
    try {
      const owner = ownerOf(link.alias);
      if (owner?.kind === "network") await this.#network(owner.id);
      if (owner?.kind === "shim") await this.#whole(owner.id);
      for (const { id } of this.#parents.on(link.name)) await this.#whole(id);
    } catch (error) {
      this.#addressesSeen.delete(index);
      throw error;
    }
    // Only what was right as it was found need not be looked at again.
    if (this.health.repairs > repairs) this.#addressesSeen.delete(index);
  }
}
