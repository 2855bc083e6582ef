import { isDeepStrictEqual } from "node:util";
import type { EngineBridge } from "../firewall/layout.ts";
import { bare, isLinkLocal, subnetOf } from "../ip.ts";
import type { Host } from "../kernel/host.ts";
import type { Link } from "../kernel/link.ts";
import { ownerOf } from "../names.ts";
import type { Engine } from "./engine.ts";

/** Bridges of networks that the engine makes by itself, and that lead to the outside. */
const BUILT_IN = /^(docker0|docker_gwbridge)$/;
/** What it calls the others unless a user chose a name. */
const MADE = /^br-[0-9a-f]{12}$/;

/** Milliseconds in which an engine lists a network whose bridge is there: it makes the bridge first. */
const MAKING_MS = 5000;

/** What tsnet itself knows of bridges. */
export interface Known {
  /** Those that were kept apart from tsnet's networks when it last ran; one may be listed for each family. */
  kept(): Promise<readonly Pick<EngineBridge, "name" | "internal">[]>;
  /** Whether a network of tsnet's is on it. */
  isUsed(bridge: string): boolean;
}

/** What was found at first. */
interface Found {
  /** Those kept apart, and whether as internal ones. */
  readonly kept: ReadonlyMap<string, boolean>;
  /** The rest. Where the name tells nothing, they are somebody else's. */
  readonly others: ReadonlySet<string>;
}

/**
 * The bridges that hold the engine's own containers: by the name, which is known as soon as the link is there, and by
 * the engine's word for those that a user named. That word is kept while no engine answers: with live-restore its
 * containers go on. Whether one is internal only the engine can say; one that it has said nothing of yet is taken for
 * that, since what gets through stays, and what does not is sent again.
 */
export class EngineBridges {
  readonly #host: Pick<Host, "links" | "addresses">;
  readonly #engine: Pick<Engine, "bridges">;
  readonly #known: Known;
  /** What the engine said: whether each of its bridges is internal. Undefined until it has said something. */
  #told: ReadonlyMap<string, boolean> | undefined;
  /** Since when it has answered and not listed one that is there. */
  #unlisted: ReadonlyMap<string, number> = new Map();
  /** When it answered last. */
  #answeredAt = 0;
  #found: Found | undefined;

  constructor(host: Pick<Host, "links" | "addresses">, engine: Pick<Engine, "bridges">, known: Known) {
    this.#host = host;
    this.#engine = engine;
    this.#known = known;
  }

  /** Those that are there, as far as is known without asking. */
  async list(): Promise<EngineBridge[]> {
    const bridges = await this.#ofEngine(await this.#bridges());
    const addresses = bridges.length > 0 ? await this.#host.addresses.list() : [];
    return bridges.map(({ link, name, internal }) => {
      const its = addresses.filter(({ index, cidr }) => index === link && !isLinkLocal(bare(cidr)));
      return { name, internal, subnets: [...new Set(its.map(({ cidr }) => subnetOf(cidr)))].sort() };
    });
  }

  /**
   * Asks the engine about bridges whose names tell nothing, and those that it has said nothing of.
   *
   * @returns whether its word is another one than before; undefined if it does not answer, or has yet to list one
   */
  async ask(): Promise<boolean | undefined> {
    const bridges = await this.#bridges();
    // No network becomes internal, or ceases to be it; but a name that a user chose can be another network's next time.
    const unclear = bridges.filter(({ name }) => isNamedByUser(name) || !this.#isTold(name));
    if (unclear.length === 0) return false;
    const before = await this.#ofEngine(bridges);
    try {
      const told = await this.#engine.bridges();
      this.#told = new Map(told.map(({ name, internal }) => [name, internal]));
    } catch {
      return undefined;
    }
    const now = (this.#answeredAt = Date.now());
    const unlisted = unclear.map(({ name }) => name).filter((name) => !this.#isTold(name));
    this.#unlisted = new Map(unlisted.map((name) => [name, this.#unlisted.get(name) ?? now]));
    if (!isDeepStrictEqual(await this.#ofEngine(bridges), before)) return true;
    return unlisted.some((name) => !this.#isForeign(name)) ? undefined : false;
  }

  async #ofEngine(bridges: readonly Link[]): Promise<{ name: string; link: number; internal: boolean }[]> {
    const found = (this.#found ??= await this.#find(bridges));
    const isInternal = (name: string) =>
      this.#told?.get(name) ?? found.kept.get(name) ?? !(BUILT_IN.test(name) || this.#isForeign(name));
    return bridges
      .filter(({ name }) => !isNamedByUser(name) || (this.#told?.has(name) ?? this.#isLikely(name, found)))
      .map(({ name, index }) => ({ name, link: index, internal: isInternal(name) }));
  }

  /**
   * An engine that starts makes its bridges and starts its containers before it answers. So until it has answered once,
   * what was kept apart still is, and what comes after tsnet is taken for the engine's.
   */
  #isLikely(name: string, { others }: Found): boolean {
    return !others.has(name) && !this.#known.isUsed(name);
  }

  async #find(bridges: readonly Link[]): Promise<Found> {
    const kept = new Map<string, boolean>();
    for (const { name, internal } of await this.#known.kept())
      kept.set(name, internal || kept.get(name) === true);
    return { kept, others: new Set(bridges.map(({ name }) => name).filter((name) => !kept.has(name))) };
  }

  #isTold(name: string): boolean {
    return BUILT_IN.test(name) || this.#told?.has(name) === true;
  }

  /** Whether it had time to list it and did not: that is no network of this engine's. */
  #isForeign(name: string): boolean {
    return this.#answeredAt - (this.#unlisted.get(name) ?? Infinity) >= MAKING_MS;
  }

  /** All that are not tsnet's own. */
  async #bridges(): Promise<Link[]> {
    return (await this.#host.links.list("bridge")).filter(({ alias }) => !ownerOf(alias));
  }
}

/** Whether a name is none that the engine chooses: it tells nothing of whose the bridge is. */
function isNamedByUser(name: string): boolean {
  return !BUILT_IN.test(name) && !MADE.test(name);
}
