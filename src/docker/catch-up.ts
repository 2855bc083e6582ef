import type { Logger } from "pino";
import type { Driver } from "../driver.ts";
import { reason } from "../errors.ts";
import { isYoung } from "../knowledge.ts";
import type { Endpoint, Network } from "../model.ts";
import { applyOne, stepLog } from "../step.ts";
import type { State } from "../store/state.ts";
import type { Engine } from "./engine.ts";

/**
 * The engine shows an endpoint only after Join, and repeats a request for 15 s while the plugin does not answer.
 * What is younger than this may be one that it is still making.
 */
const MAKING_MS = 20_000;
/** One network may have gone meanwhile, or the engine be busy. */
const AGAIN_MS = 1000;
/** For so long the networks of another engine are kept: a day, in which somebody mounts the disk that its data are on. */
const ABSENT_MS = 24 * 3_600_000;

/**
 * Deletes what the engine no longer knows. The engine forgets networks and endpoints even when the plugin
 * was down or failed at it, and never asks again. What cannot be deleted is told of and keeps nothing else.
 *
 * An engine that starts without its data directory, since the disk is not mounted, knows nothing at all. So it is on
 * record which engine was seen to know a network, and another one's word does not count.
 */
export class CatchUp {
  readonly #engine: Pick<Engine, "inventory" | "endpoints">;
  readonly #driver: Driver;
  readonly #state: State;
  readonly #log: Logger;
  /** The engine that was asked last. */
  #current = "";
  /** Since when that is another one than the one that knew some networks. */
  #since = 0;
  /** What could not be read of each network, so that it is told once. */
  readonly #unread = new Map<string, string>();

  constructor(engine: Pick<Engine, "inventory" | "endpoints">, driver: Driver, state: State, log: Logger) {
    this.#engine = engine;
    this.#driver = driver;
    this.#state = state;
    this.#log = log;
  }

  /**
   * @param end whether nobody waits for it any more
   * @returns milliseconds until there is more to say: what was spared is no longer young, or a network can be read
   */
  async run(end: Pick<AbortSignal, "aborted">): Promise<number | undefined> {
    let again: number | undefined;
    // What is made while the engine answers, or while others are deleted, is not on its list; nor what takes longer than
    // it should to be made.
    const asked = Date.now();
    const busy = new Set(this.#state.networks().flatMap(({ id }) => (this.#driver.isBusy(id) ? id : [])));
    const isSpared = (one: Network | Endpoint) => {
      const [network, createdAt] =
        "network" in one ? [one.network, one.createdAt] : [one.id, this.#driver.madeAt(one)];
      const spared = isYoung({ createdAt }, MAKING_MS, asked) || busy.has(network);
      if (spared) again ??= MAKING_MS;
      return spared;
    };
    const { engine, networks: known } = await this.#engine.inventory();
    for (const id of this.#unread.keys()) if (!known.has(id)) this.#unread.delete(id);
    const lost = this.#state.networks().filter(({ id }) => !known.has(id));
    const kept = new Set(this.#others(engine, lost));
    for (const network of lost) {
      if (end.aborted) return again;
      const { id } = network;
      if (!kept.has(network) && !isSpared(network))
        await this.#remove({ network: id }, () => this.#driver.deleteNetwork(id));
    }
    for (const network of this.#state.networks().filter(({ id }) => known.has(id))) {
      if (end.aborted) return again;
      const { id } = network;
      // The others need not wait for what is just being done to one.
      if (network.engine !== engine && !this.#driver.isBusy(id)) await this.#remember(id, engine);
      if (this.#state.endpoints(id).length === 0) continue;
      const attached = await this.#endpoints(id);
      if (!attached) again = AGAIN_MS;
      for (const endpoint of attached ? this.#state.endpoints(id) : [])
        if (!attached?.has(endpoint.id) && !isSpared(endpoint))
          await this.#remove({ network: id, endpoint: endpoint.id }, () =>
            this.#driver.deleteEndpoint(id, endpoint.id),
          );
    }
    return again;
  }

  /** Those of the networks that another engine was seen to know, while it may come back. */
  #others(engine: string, lost: readonly Network[]): Network[] {
    const now = performance.now();
    const isNew = engine !== this.#current;
    if (isNew) [this.#current, this.#since] = [engine, now];
    const others = lost.filter((network) => network.engine !== undefined && network.engine !== engine);
    if (others.length === 0 || now - this.#since > ABSENT_MS) return [];
    if (isNew)
      this.#log.warn(
        { networks: others.map(({ id }) => id) },
        "this engine has another data directory than the one that has these networks; keeping them for a day",
      );
    return others;
  }

  async #remember(id: string, engine: string): Promise<void> {
    await this.#driver.exclusively(id, async () => {
      const network = this.#state.network(id);
      if (network) await applyOne(this.#state.networkRecord({ ...network, engine }), stepLog(this.#log, id));
    });
  }

  /** Ids of the endpoints of a network that containers have; undefined if the engine does not say. */
  async #endpoints(network: string): Promise<ReadonlySet<string> | undefined> {
    try {
      const endpoints = await this.#engine.endpoints(network);
      this.#unread.delete(network);
      return endpoints;
    } catch (error) {
      const why = reason(error);
      if (this.#unread.get(network) !== why)
        this.#log.info({ network, reason: why }, "could not compare with the engine; will try again");
      this.#unread.set(network, why);
      return undefined;
    }
  }

  async #remove(
    ids: { readonly network: string; readonly endpoint?: string },
    removal: () => Promise<unknown>,
  ): Promise<void> {
    this.#log.warn(ids, "the engine no longer knows this; deleting it");
    try {
      await removal();
    } catch (error) {
      this.#log.warn({ ...ids, reason: reason(error) }, "could not be deleted; will try again");
    }
  }
}
