import type { Logger } from "pino";
import type { Driver } from "../driver.ts";
import { reason } from "../errors.ts";
import { isYoung } from "../knowledge.ts";
import type { Endpoint, Network } from "../model.ts";
import type { State } from "../store/state.ts";
import type { Engine } from "./engine.ts";

/**
 * The engine shows an endpoint only after Join, and repeats a request for 15 s while the plugin does not answer.
 * What is younger than this may be one that it is still making.
 */
const MAKING_MS = 20_000;
/** One network may have gone meanwhile, or the engine be busy. */
const AGAIN_MS = 1000;

/**
 * Deletes what the engine no longer knows. The engine forgets networks and endpoints even when the plugin
 * was down or failed at it, and never asks again. What cannot be deleted is told of and keeps nothing else.
 *
 * @param end whether nobody waits for it any more
 * @returns milliseconds until there is more to say: what was spared is no longer young, or a network can be read
 */
export async function catchUp(
  engine: Engine,
  driver: Driver,
  state: State,
  log: Logger,
  end: Pick<AbortSignal, "aborted">,
): Promise<number | undefined> {
  let again: number | undefined;
  // What is made while the engine answers, or while others are deleted, is not on its list; nor what takes longer than
  // it should to be made.
  const asked = Date.now();
  const busy = new Set(state.networks().flatMap(({ id }) => (driver.isBusy(id) ? id : [])));
  const isSpared = (one: Network | Endpoint) => {
    const spared = isYoung(one, MAKING_MS, asked) || busy.has("network" in one ? one.network : one.id);
    if (spared) again ??= MAKING_MS;
    return spared;
  };
  const known = new Set((await engine.networks()).map(({ id }) => id));
  const remove = async (ids: { network: string; endpoint?: string }, removal: () => Promise<void>) => {
    log.warn(ids, "the engine no longer knows this; deleting it");
    try {
      await removal();
    } catch (error) {
      log.warn({ ...ids, reason: reason(error) }, "could not be deleted; will try again");
    }
  };
  for (const network of state.networks()) {
    if (end.aborted) break;
    const { id } = network;
    if (!known.has(id)) {
      if (!isSpared(network)) await remove({ network: id }, () => driver.deleteNetwork(id));
      continue;
    }
    if (state.endpoints(id).length === 0) continue;
    const attached = await engine.endpoints(id).catch((error: unknown) => {
      log.info({ network: id, reason: reason(error) }, "could not compare with the engine; will try again");
      again = AGAIN_MS;
    });
    if (!attached) continue;
    for (const endpoint of state.endpoints(id).filter((one) => !attached.has(one.id) && !isSpared(one)))
      await remove({ network: id, endpoint: endpoint.id }, () => driver.deleteEndpoint(id, endpoint.id));
  }
  return again;
}
