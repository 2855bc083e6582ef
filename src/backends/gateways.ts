import { bare, contains } from "../ip.ts";
import type { Endpoint, JoinResponse, Network, Pool } from "../model.ts";

/** Bare addresses of an endpoint's gateways, and what the engine must be told where there is none. */
export type Gateways = Pick<JoinResponse, "gateway" | "gatewayIPv6" | "withoutGateway">;

/** The way out of a network that is not internal: for each family the gateway of the pool that the address is from. */
export function gatewaysOf({ ipv4, ipv6 }: Network, endpoint: Pick<Endpoint, "ipv4" | "ipv6">): Gateways {
  const gateway = gatewayOf(ipv4, endpoint.ipv4, "DefaultGatewayIPv4");
  const gatewayIPv6 = gatewayOf(ipv6, endpoint.ipv6, "DefaultGatewayIPv6");
  return {
    ...(gateway ? { gateway } : {}),
    ...(gatewayIPv6 ? { gatewayIPv6 } : {}),
    // Engine 20.10 counts an IPv4 gateway only.
    ...(gateway ? {} : { withoutGateway: true }),
  };
}

/** One reserved by the engine's own name for it comes first. */
function gatewayOf(
  family: readonly Pool[],
  address: string | undefined,
  auxName: string,
): string | undefined {
  if (!address) return undefined;
  const pool = family.find(({ subnet }) => contains(subnet, bare(address)));
  const gateway = pool?.aux[auxName] ?? pool?.gateway;
  return gateway && bare(gateway);
}
