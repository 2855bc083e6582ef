import { ConflictError, TakenError } from "../errors.ts";
import { overlaps, parseCidr } from "../ip.ts";
import type { Host } from "../kernel/host.ts";
import type { Route } from "../kernel/route.ts";
import { type Network, isAny } from "../model.ts";

/**
 * Longest prefix of a route that may have a network's subnet within it. A VPN's routes to half of the Internet, or to all
 * private addresses, would leave no subnet to choose.
 */
const WIDE = { 4: 15, 6: 47 } as const;

/**
 * Makes sure that a network's subnets take nothing from the host's routes. The engine compares them with other networks'
 * only.
 *
 * @param bridge index of the network's own link, where there is one already
 * @param ownerOf id of the network that has that link
 * @throws {TakenError} if it is another network that is in the way
 */
export async function mustLeaveRoutes(
  host: Host,
  { ipv4, ipv6 }: Pick<Network, "ipv4" | "ipv6">,
  bridge: number | undefined,
  ownerOf: (link: string) => string | undefined,
): Promise<void> {
  const subnets = [...ipv4, ...ipv6].map(({ subnet }) => subnet).filter((subnet) => !isAny(subnet));
  if (subnets.length === 0) return;
  const routes = (await host.routes()).filter(({ link }) => link !== bridge);
  for (const subnet of subnets) {
    const taken = routes.find((route) => overlaps(route.subnet, subnet) && isObstacle(route, subnet));
    if (!taken) continue;
    const owner = ownerOf((await host.links.at(taken.link))?.name ?? "");
    const message = `subnet ${subnet} overlaps the host's route to ${taken.subnet}${owner ? ` of network ${owner}` : ""}; choose another with --subnet`;
    throw owner ? new TakenError(owner, message) : new ConflictError(message);
  }
}

/** Whether a subnet would take something from a route that it is in; of a wide one it is an exception, as of the default. */
function isObstacle({ subnet: destination, connected }: Route, subnet: string): boolean {
  const { family, length } = parseCidr(destination);
  return connected || length > WIDE[family] || length >= parseCidr(subnet).length;
}
