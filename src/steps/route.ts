import { ConflictError } from "../errors.ts";
import { hostSubnet, parseIp } from "../ip.ts";
import type { Host } from "../kernel/host.ts";
import type { Route } from "../kernel/route.ts";
import { HOST_AUX } from "../model.ts";
import type { Step } from "../step.ts";

/** A container that the host reaches through a link of its own. */
export interface HostRouteSpec {
  readonly link: string;
  /** Bare. */
  readonly address: string;
  readonly mac: string;
  /** Bare address that the host speaks to the container from; asked each time, since it may change. */
  readonly source: () => Promise<string | undefined>;
}

/** Who has the container's address, so that the host need not ask, and be heard asking by the whole LAN. */
export function neighbourEntry(host: Host, { link, address, mac }: HostRouteSpec): Step {
  return {
    what: `neighbour ${address} lladdr ${mac} dev ${link}`,
    async apply() {
      const there = await host.links.get(link);
      if (!there || (await host.neighbours.get({ link: there.index, address })) === mac) return false;
      await host.neighbours.set({ link: there.index, address, mac });
      return true;
    },
    async revert() {
      const there = await host.links.get(link);
      if (there) await host.neighbours.delete({ link: there.index, address });
    },
  };
}

/** The route to the one address. It goes with its link. */
export function hostRoute(host: Host, { link, address, source }: HostRouteSpec): Step {
  const subnet = hostSubnet(address);
  return {
    what: `route ${subnet} dev ${link}`,
    async apply() {
      const there = await host.links.get(link);
      if (!there?.up) return false;
      const [now, from] = await Promise.all([host.routes.to(address), source()]);
      const isTaken = (way: Route | undefined) => way?.subnet === subnet && way.link === there.index;
      if (now?.subnet === subnet && now.link !== there.index)
        throw await inTheWay(host, address, subnet, link);
      const isThere = isTaken(now) && now?.source === (from ?? "");
      if (!isThere) await host.routes.add({ subnet, link: there.index, ...(from ? { source: from } : {}) });
      // Where a rule leads elsewhere it is made again and again, and that is no drift; who shares the link tells of it.
      return !isThere && isTaken(await host.routes.to(address));
    },
    async revert() {
      const there = await host.links.get(link);
      if (there) await host.routes.delete({ subnet, link: there.index });
    },
  };
}

async function inTheWay(host: Host, address: string, subnet: string, link: string): Promise<ConflictError> {
  return new ConflictError(
    (await host.routes.isLocal(address))
      ? `${address} is the host's own address; reserve it for the host (--aux-address ${HOST_AUX[parseIp(address).family]}=${address}) or give the container another`
      : `route ${subnet} exists and does not lead to ${link}; remove it`,
  );
}
