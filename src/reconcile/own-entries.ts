import { bare } from "../ip.ts";
import type { Host } from "../kernel/host.ts";
import { ownNeighbour } from "../kernel/neighbour.ts";
import { type KernelEvent, RTM } from "../kernel/netlink/rtnetlink.ts";
import { parseRoute } from "../kernel/route.ts";

/** A route or a neighbour entry that tsnet made for an endpoint's address. */
export interface OwnEntry {
  /** As iproute2 would say it. */
  readonly what: string;
  /** Bare. */
  readonly address: string;
  readonly delete: () => Promise<void>;
}

/** Every route and neighbour entry with tsnet's mark. */
export async function ownEntries(host: Host): Promise<OwnEntry[]> {
  const [routes, neighbours] = await Promise.all([host.routes.list(), host.neighbours.own()]);
  return [
    ...routes
      .filter(({ own }) => own)
      .map(({ subnet, link }) => ({
        what: `route ${subnet}`,
        address: bare(subnet),
        delete: () => host.routes.delete({ subnet, link }),
      })),
    ...neighbours.map((entry) => ({
      what: `neighbour ${entry.address}`,
      address: entry.address,
      delete: () => host.neighbours.delete(entry),
    })),
  ];
}

/** The bare address of an entry of tsnet's that an event says is gone. */
export function lostAddress({ type, payload }: KernelEvent): string | undefined {
  if (type === RTM.DELNEIGH) return ownNeighbour(payload)?.address;
  if (type !== RTM.DELROUTE) return undefined;
  const { own, subnet } = parseRoute(payload);
  return own ? bare(subnet) : undefined;
}
