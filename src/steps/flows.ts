import type { Host } from "../kernel/host.ts";
import type { Step } from "../step.ts";

/**
 * What a container's addresses had to do with others ends with the endpoint: whoever spoke to it would speak to the
 * next one that has its address, past every rule. That one waits until it is done, so that its own connections are not
 * forgotten with those of the last one.
 *
 * @param addresses bare
 * @param left it was done when the container left: while the engine takes its link away, and nobody has to wait
 */
export function ownFlows(host: Host, addresses: readonly string[], left: boolean): Step {
  return {
    what: `flows of ${addresses.join(" and ")}`,
    apply: async () => {
      await host.flows.without(addresses);
      return false;
    },
    revert: () => {
      if (!left) host.flows.leave(addresses);
      return Promise.resolve();
    },
  };
}
