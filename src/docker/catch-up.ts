import type { Logger } from "pino";
import type { Driver } from "../driver.ts";
import { reason } from "../errors.ts";
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
 * @returns milliseconds until there is more to say: what was spared is no longer young, or a network can be read
 */
export async function catchUp(
  engine: Engine,
  driver: Driver,
  state: State,
  log: Logger,
): Promise<number | undefined> {
  let again: number | undefined;
  // What is made while the engine answers, or while others are deleted, is not on its list.
  const asked = Date.now();
  const isOld = (createdAt: number) => asked - createdAt >= MAKING_MS;
  const known = new Set((await engine.networks()).map(({ id }) => id));
  const remove = async (ids: { network: string; endpoint?: string }, removal: () => Promise<void>) => {
    log.warn(ids, "the engine no longer knows this; deleting it");
    try {
      await removal();
    } catch (error) {
      log.warn({ ...ids, reason: reason(error) }, "could not be deleted; will try again");
    }
  };
  for (const { id: network, createdAt } of state.networks()) {
    if (!known.has(network)) {
      if (isOld(createdAt)) await remove({ network }, () => driver.deleteNetwork(network));
      else again ??= MAKING_MS;
      continue;
    }
    if (state.endpoints(network).length === 0) continue;
    const attached = await engine.endpoints(network).catch((error: unknown) => {
      log.info({ network, reason: reason(error) }, "could not compare with the engine; will try again");
      again = AGAIN_MS;
    });
    if (!attached) continue;
    for (const { id: endpoint, createdAt } of state.endpoints(network).filter(({ id }) => !attached.has(id)))
      if (isOld(createdAt))
        await remove({ network, endpoint }, () => driver.deleteEndpoint(network, endpoint));
      else again ??= MAKING_MS;
  }
  return again;
}
