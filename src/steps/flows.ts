import type { Host } from "../kernel/host.ts";
import type { Step } from "../step.ts";

/**
 * The conntrack entries of a container's addresses go with its endpoint: its peers would otherwise reach whoever is
 * given an address next, past every rule. That one waits until they are gone, so that its own are not forgotten with
 * them.
 *
 * @param addresses bare
 * @param left it was done when the container left: while the engine takes its link away, and nobody has to wait
 */
export function ownFlows(host: Host, addresses: readonly string[], left: boolean): Step {
  return {
    what: `flows of ${addresses.join(" and ")}`,
    apply: async () => {
      await host.flows.forgotten(addresses);
      return false;
    },
    revert: () => {
      if (!left) host.flows.forgetSoon(addresses);
      return Promise.resolve();
    },
  };
}
