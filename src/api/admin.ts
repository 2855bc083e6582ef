import { Router } from "express";
import type { Engine } from "../docker/engine.ts";
import { type Protocol, targetOf } from "../model.ts";
import type { Health } from "../reconcile/health.ts";
import type { State } from "../store/state.ts";

/** One published port, as `tsnet ports` shows it. */
export interface PortView {
  /** Name of the container; empty while no engine answers. */
  readonly container: string;
  /** Name of the network, or its id while no engine answers. */
  readonly network: string;
  readonly endpoint: string;
  readonly protocol: Protocol;
  /** Bare address and port of the host; absent where the container is reached at its own address (routed). */
  readonly host?: { readonly address: string; readonly port: number };
  /** Bare address and port of the container. */
  readonly target: { readonly address: string; readonly port: number };
}

/** How the daemon is, as `tsnet status` shows it. */
export interface StatusView {
  readonly networks: number;
  readonly endpoints: number;
  readonly publishedPorts: number;
  /** What was not as it should be since the start and was repaired, by kind. */
  readonly drift: Readonly<Record<string, number>>;
  /** What cannot be repaired, see {@link Health.degraded}. */
  readonly degraded: Readonly<Record<string, string>>;
}

/** What tsnet's own commands ask the daemon, on the socket that the engine uses. */
export function adminRoutes(state: State, health: Health, engine: Engine): Router {
  const router = Router();
  router.get("/tsnet/ports", async (_, response) => {
    response.json(await ports(state, engine));
  });
  router.get("/tsnet/status", (_, response) => {
    response.json(status(state, health));
  });
  return router;
}

async function ports(state: State, engine: Engine): Promise<PortView[]> {
  // All at once: one that does not answer must not be waited for once for each network.
  const views = await Promise.all(state.networks().map(({ id }) => portsOf(id, state, engine)));
  return views.flat();
}

async function portsOf(network: string, state: State, engine: Engine): Promise<PortView[]> {
  const publishing = state.endpoints(network).filter((endpoint) => endpoint.ports?.length);
  if (publishing.length === 0) return [];
  // Names are a help to the reader; without an engine the ids have to do.
  const names = await engine.names(network).catch(() => ({ network, containers: new Map<string, string>() }));
  return publishing.flatMap((endpoint) =>
    (endpoint.ports ?? []).map((port) => ({
      container: names.containers.get(endpoint.id) ?? "",
      network: names.network,
      endpoint: endpoint.id,
      protocol: port.protocol,
      ...(port.host ? { host: port.host } : {}),
      target: { address: targetOf(endpoint, port), port: port.containerPort },
    })),
  );
}

function status(state: State, health: Health): StatusView {
  const endpoints = state.networks().flatMap(({ id }) => state.endpoints(id));
  return {
    networks: state.networks().length,
    endpoints: endpoints.length,
    publishedPorts: endpoints.reduce((sum, { ports = [] }) => sum + ports.length, 0),
    drift: Object.fromEntries(health.drift),
    degraded: Object.fromEntries(health.degraded),
  };
}
