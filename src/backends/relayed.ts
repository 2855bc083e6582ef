import { relayedNeighbours } from "../firewall/port-rules.ts";
import { EVERYWHERE, LOOPBACK, UNSPECIFIED } from "../ip.ts";
import type { Admitted } from "../kernel/socket-filter.ts";
import { type Endpoint, type PublishedPort, addressOf } from "../model.ts";

/**
 * What of all that is sent to a port is for its relay.
 *
 * @param icc whether the network's containers may reach each other
 * @param gateways the bridge's addresses, with prefix length
 */
export function relayedTo(
  { icc, gateways }: { readonly icc: boolean; readonly gateways: readonly string[] },
  endpoint: Endpoint,
  {
    protocol,
    family,
    host: { address: hostAddress },
  }: Pick<PublishedPort, "protocol" | "family"> & { readonly host: { readonly address: string } },
): Admitted[] {
  if (protocol === "sctp") return [];
  const containerAddress = addressOf(endpoint, family);
  if (containerAddress === undefined) return [{ from: EVERYWHERE[family] }];
  const reached = { family, protocol, hostAddress, icc, gateways, containerAddress };
  const neighbours = relayedNeighbours(reached);
  const isLoopback = [UNSPECIFIED[6], "::1"].includes(hostAddress);
  return isLoopback ? [{ from: LOOPBACK[6] }, ...neighbours] : neighbours;
}
