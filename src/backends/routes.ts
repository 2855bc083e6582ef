import { ConflictError, InvalidError, TakenError } from "../errors.ts";
import { isEverywhere, overlaps, parseCidr } from "../ip.ts";
import type { Host } from "../kernel/host.ts";
import type { Route } from "../kernel/route.ts";
import { type Network } from "../model.ts";

/**
 * Longest prefix of a route that may have a network's subnet within it. A VPN's routes to half of the Internet, or to
 * all private addresses, would leave no subnet to choose.
 */
const WIDE = { 4: 15, 6: 47 } as const;

/**
 * What no host has an address of: the one that does not know its own, loopback, multicast (RFC 1122, section 3.2.1.3;
 * RFC 4291, section 2.7). To the neighbours of such an address the kernel makes no route.
 */
const UNASSIGNABLE = ["0.0.0.0/32", "127.0.0.0/8", "224.0.0.0/4", "ff00::/8"] as const;

/**
 * Makes sure that containers can have the addresses of a network's subnets. The engine grants any.
 *
 * @throws {InvalidError} if they cannot
 */
export function mustBeAssignable(network: Pick<Network, "ipv4" | "ipv6">): void {
  for (const subnet of subnetsOf(network)) {
    const range = UNASSIGNABLE.find((one) => overlaps(one, subnet));
    if (range)
      throw new InvalidError(
        `subnet ${subnet} overlaps ${range}, which no container has an address of; choose another with --subnet`,
      );
  }
}

/**
 * Makes sure that a network's subnets take nothing from the host's routes. The engine compares them with other
 * networks' only.
 *
 * @param bridge index of the network's own link, where there is one already
 * @param ownerOf id of the network that has that link
 * @throws {TakenError} if it is another network that is in the way
 */
export async function mustLeaveRoutes(
  host: Host,
  network: Pick<Network, "ipv4" | "ipv6">,
  bridge: number | undefined,
  ownerOf: (link: string) => string | undefined,
): Promise<void> {
  const subnets = subnetsOf(network);
  if (subnets.length === 0) return;
  const routes = (await host.routes.list()).filter(({ link }) => link !== bridge);
  for (const subnet of subnets) {
    const taken = routes.find((route) => overlaps(route.subnet, subnet) && isObstacle(route, subnet));
    if (!taken) continue;
    const owner = ownerOf((await host.links.at(taken.link))?.name ?? "");
    const message = `subnet ${subnet} overlaps the host's route to ${taken.subnet}${owner ? ` of network ${owner}` : ""}; choose another with --subnet`;
    throw owner ? new TakenError(owner, message) : new ConflictError(message);
  }
}

/** A network's subnets, but for the null IPAM driver's. */
function subnetsOf({ ipv4, ipv6 }: Pick<Network, "ipv4" | "ipv6">): string[] {
  return [...ipv4, ...ipv6].map(({ subnet }) => subnet).filter((subnet) => !isEverywhere(subnet));
}

/**
 * Whether a subnet would take something from a route that it overlaps. Out of a wide one it may, as out of the default.
 */
function isObstacle({ subnet: destination, connected }: Route, subnet: string): boolean {
  const { family, length } = parseCidr(destination);
  return connected || length > WIDE[family] || length >= parseCidr(subnet).length;
}
