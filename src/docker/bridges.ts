import type { Host } from "../kernel/host.ts";
import type { Link } from "../kernel/link.ts";
import { ownerOf } from "../names.ts";
import type { Engine } from "./engine.ts";

/** What the engine calls its bridges unless a user chose a name. */
const USUAL = /^(docker0|docker_gwbridge|br-[0-9a-f]{12})$/;

/**
 * The bridges that hold the engine's own containers: by the name, which is known as soon as the link is there, and by
 * the engine's word for those that a user named. That word is kept while no engine answers: with live-restore its
 * containers go on.
 */
export class EngineBridges {
  readonly #host: Pick<Host, "links">;
  readonly #engine: Pick<Engine, "networks">;
  #named: ReadonlySet<string> = new Set();

  constructor(host: Pick<Host, "links">, engine: Pick<Engine, "networks">) {
    this.#host = host;
    this.#engine = engine;
  }

  /** Names of those that are there, as far as is known without asking. */
  async there(): Promise<string[]> {
    const names = (await this.#bridges()).map(({ name }) => name);
    return names.filter((name) => USUAL.test(name) || this.#named.has(name)).sort();
  }

  /**
   * Asks the engine about bridges whose names tell nothing.
   *
   * @returns whether its word is another one than before; undefined if it does not answer
   */
  async learn(): Promise<boolean | undefined> {
    const strange = (await this.#bridges()).filter(({ name, alias }) => !USUAL.test(name) && !ownerOf(alias));
    if (strange.length === 0) return false;
    let named: ReadonlySet<string>;
    try {
      const networks = await this.#engine.networks();
      named = new Set(networks.flatMap(({ bridge = "" }) => (USUAL.test(bridge) ? [] : bridge)));
    } catch {
      return undefined;
    }
    const before = this.#named;
    this.#named = named;
    return strange.some(({ name }) => before.has(name) !== named.has(name));
  }

  async #bridges(): Promise<Link[]> {
    return (await this.#host.links.list()).filter(({ kind }) => kind === "bridge");
  }
}
