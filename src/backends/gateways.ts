import { FAMILIES, bare, contains, isEverywhere } from "../ip.ts";
import { type Endpoint, type JoinResponse, type Network, type Pool, addressOf, pools } from "../model.ts";

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

/** The network's other subnets, where no gateway leads to them: all its containers are on one link. */
export function subnetsBeside(
  network: Network,
  endpoint: Pick<Endpoint, "ipv4" | "ipv6">,
): Pick<JoinResponse, "onLink"> {
  const onLink = FAMILIES.flatMap((family) => {
    const address = addressOf(endpoint, family);
    const subnets = pools(network, family).map(({ subnet }) => subnet);
    return address ? subnets.filter((subnet) => !isEverywhere(subnet) && !contains(subnet, address)) : [];
  });
  return onLink.length > 0 ? { onLink } : {};
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
