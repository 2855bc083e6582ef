import type { Logger } from "pino";
import type { Driver } from "../driver.ts";
import type { State } from "../store/state.ts";
import type { Engine } from "./engine.ts";

/**
 * The engine shows an endpoint only after Join, and repeats a request for 15 s while the plugin does not answer.
 * What is younger than this may be one that it is still making.
 */
const MAKING_MS = 20_000;

/**
 * Deletes what the engine no longer knows. The engine forgets networks and endpoints even when the plugin
 * was down or failed at it, and never asks again.
 */
export async function catchUp(engine: Engine, driver: Driver, state: State, log: Logger): Promise<void> {
  const known = new Set((await engine.networks()).map(({ id }) => id));
  for (const network of state.networks()) {
    if (!known.has(network.id)) {
      if (Date.now() - network.createdAt < MAKING_MS) continue;
      log.warn({ network: network.id }, "the engine no longer knows this network; deleting it");
      await driver.deleteNetwork(network.id);
      continue;
    }
    const old = state.endpoints(network.id).filter(({ createdAt }) => Date.now() - createdAt >= MAKING_MS);
    if (old.length === 0) continue;
    const attached = await engine.endpoints(network.id);
    for (const { id } of old.filter((endpoint) => !attached.has(endpoint.id))) {
      log.warn(
        { network: network.id, endpoint: id },
        "the engine no longer knows this endpoint; deleting it",
      );
      await driver.deleteEndpoint(network.id, id);
    }
  }
}
