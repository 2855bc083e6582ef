import type { Host } from "../kernel/host.ts";
import type { Step } from "../step.ts";

/**
 * What a container's addresses had to do with others ends with the endpoint. Nobody waits for that but who comes next, and may
 * have one of these addresses: whoever spoke to the last one would speak to it, past every rule, and its own connections
 * must not be forgotten with those of the last one.
 *
 * @param addresses bare
 */
export function ownFlows(host: Host, addresses: readonly string[]): Step {
  return {
    what: `flows of ${addresses.join(" and ")}`,
    apply: async () => {
      await host.flows.without(addresses);
      return false;
    },
    revert: () => {
      host.flows.leave(addresses);
      return Promise.resolve();
    },
  };
}
