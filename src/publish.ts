import { isDeepStrictEqual } from "node:util";
import type { Backend } from "./backends/backend.ts";
import type { Endpoint, Network, PublishedPort } from "./model.ts";
import { type Step, type StepLog, applyAll, revertAll } from "./step.ts";
import type { State } from "./store/state.ts";

/**
 * What replaces the ports that an endpoint publishes by others, such that a failure leaves it as it was.
 * Ports in both sets are not touched: connections to them go on.
 *
 * @param ports chosen and taken already; given back when the plan fails
 */
export function republish(
  state: State,
  backend: Backend,
  network: Network,
  endpoint: Endpoint,
  ports: readonly PublishedPort[],
  log: StepLog,
): Step[] {
  const before = endpoint.ports ?? [];
  const without = (these: readonly PublishedPort[], those: readonly PublishedPort[]): Step[] => {
    const differing = these.filter((port) => !those.some((other) => isDeepStrictEqual(port, other)));
    return backend.publish?.(network, { ...endpoint, ports: differing }) ?? [];
  };
  const record = state.endpointRecord({ ...endpoint, ports: [...ports] });
  return [
    {
      what: `ports taken for endpoint ${endpoint.id}`,
      apply: () => Promise.resolve(true),
      revert: () => revertAll(without(ports, before), log),
    },
    {
      what: record.what,
      apply: () => record.apply(),
      revert: async () => {
        await state.endpointRecord(endpoint).apply();
      },
    },
    {
      what: `ports that endpoint ${endpoint.id} no longer publishes`,
      apply: async () => {
        await revertAll(without(before, ports), log);
        return true;
      },
      revert: () => applyAll(without(before, ports), log),
    },
    ...without(ports, before),
  ];
}
