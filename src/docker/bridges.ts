import type { Host } from "../kernel/host.ts";
import type { Link } from "../kernel/link.ts";
import { ownerOf } from "../names.ts";
import type { Engine } from "./engine.ts";

/** What the engine calls its bridges unless a user chose a name. */
const USUAL = /^(docker0|docker_gwbridge|br-[0-9a-f]{12})$/;

/** What tsnet itself knows of a bridge. */
export interface Known {
  /** Whether it was kept apart from tsnet's networks when tsnet was last there. */
  isClosed(bridge: string): Promise<boolean>;
  /** Whether a network of tsnet's is on it. */
  isUsed(bridge: string): boolean;
}

/**
 * The bridges that hold the engine's own containers: by the name, which is known as soon as the link is there, and by
 * the engine's word for those that a user named. That word is kept while no engine answers: with live-restore its
 * containers go on.
 */
export class EngineBridges {
  readonly #host: Pick<Host, "links">;
  readonly #engine: Pick<Engine, "networks">;
  readonly #known: Known;
  /** What the engine said; undefined until it has said something. */
  #named: ReadonlySet<string> | undefined;
  /** Until then: those that were there at first, and are somebody else's. */
  #others: ReadonlySet<string> | undefined;

  constructor(host: Pick<Host, "links">, engine: Pick<Engine, "networks">, known: Known) {
    this.#host = host;
    this.#engine = engine;
    this.#known = known;
  }

  /** Names of those that are there, as far as is known without asking. */
  async there(): Promise<string[]> {
    const bridges = await this.#bridges();
    const named = this.#named ?? (await this.#guess(bridges));
    return bridges
      .map(({ name }) => name)
      .filter((name) => USUAL.test(name) || named.has(name))
      .sort();
  }

  /**
   * Asks the engine about bridges whose names tell nothing.
   *
   * @returns whether its word is another one than before; undefined if it does not answer
   */
  async learn(): Promise<boolean | undefined> {
    const bridges = await this.#bridges();
    const strange = bridges.filter(isStrange);
    if (strange.length === 0) return false;
    const before = this.#named ?? (await this.#guess(bridges));
    let named: ReadonlySet<string>;
    try {
      const networks = await this.#engine.networks();
      named = new Set(networks.flatMap(({ bridge = "" }) => (USUAL.test(bridge) ? [] : bridge)));
    } catch {
      return undefined;
    }
    this.#named = named;
    return strange.some(({ name }) => before.has(name) !== named.has(name));
  }

  /**
   * An engine that starts makes its bridges and starts its containers before it answers. So until it has answered once,
   * what was kept apart still is, and what comes after tsnet is taken for the engine's.
   */
  async #guess(bridges: readonly Link[]): Promise<ReadonlySet<string>> {
    const names = bridges.filter(isStrange).map(({ name }) => name);
    const others = (this.#others ??= await this.#open(names));
    return new Set(names.filter((name) => !others.has(name) && !this.#known.isUsed(name)));
  }

  async #open(names: readonly string[]): Promise<ReadonlySet<string>> {
    const closed = await Promise.all(names.map((name) => this.#known.isClosed(name)));
    return new Set(names.filter((_, index) => !closed[index]));
  }

  async #bridges(): Promise<Link[]> {
    return (await this.#host.links.list()).filter(({ kind }) => kind === "bridge");
  }
}

/** Whether a name tells nothing of whose the bridge is. */
function isStrange({ name, alias }: Link): boolean {
  return !USUAL.test(name) && !ownerOf(alias);
}
