import { ConflictError, KernelError } from "../errors.ts";
import { bare, hostSubnet, isLinkLocal, neighbourOf, subnetOf } from "../ip.ts";
import { announce } from "../kernel/announce.ts";
import type { Host } from "../kernel/host.ts";
import type { Link } from "../kernel/link.ts";
import { home } from "../kernel/netns.ts";
import type { Route } from "../kernel/route.ts";
import type { Step } from "../step.ts";

/**
 * An address on a bridge, with the route to its neighbours that comes with it. Containers on one that is somebody
 * else's are told, since its MAC may be another than before.
 */
export function bridgeAddress(host: Host, link: string, cidr: string, adopted: boolean): Step {
  return {
    what: `address ${cidr} dev ${link}`,
    async apply() {
      const there = await host.links.get(link);
      if (!there) throw new KernelError(`ip address add ${cidr} dev ${link}`, "ENODEV");
      const added = await host.addresses.add(there, cidr);
      if (added && adopted && there.up) announce(home, there, [bare(cidr)]);
      return added || (await leadAgain(host, there, cidr, adopted));
    },
    async revert() {
      const there = await host.links.get(link);
      if (there) await host.addresses.delete(there, cidr);
    },
  };
}

/**
 * Puts an address on its link once more if no route leads to its neighbours: somebody has deleted that, or the address
 * is there with another prefix length, which makes no other address of it to the kernel's IPv6.
 *
 * @returns whether it had to be
 */
async function leadAgain(host: Host, link: Link, cidr: string, adopted: boolean): Promise<boolean> {
  const subnet = subnetOf(cidr);
  if (subnet === hostSubnet(bare(subnet))) return false;
  const leads = (route: Route | undefined) => route?.subnet === subnet && route.link === link.index;
  // To the address itself none leads. Nearly always this is it; but rules may have others tables asked first.
  if (leads(await host.routes.to(neighbourOf(cidr))) || (await host.routes.list()).some(leads)) return false;
  for (const { cidr: now } of await host.addresses.on(link)) {
    if (bare(now) !== bare(cidr)) continue;
    if (adopted && now !== cidr)
      throw new ConflictError(`${link.name} has ${now}, but the network needs ${cidr} on it; take it off`);
    await host.addresses.delete(link, now);
  }
  return await host.addresses.add(link, cidr);
}

/** The addresses of a link of tsnet's, which has these and no others but link-local ones. */
export function exactAddresses(host: Host, link: string, wanted: () => Promise<readonly string[]>): Step {
  return {
    what: `address of ${link}`,
    async apply() {
      const there = await host.links.get(link);
      if (!there) return false;
      const [now, want] = await Promise.all([host.addresses.list(), wanted()]);
      const have = now.filter(({ index, cidr }) => index === there.index && !isLinkLocal(bare(cidr)));
      const surplus = have.filter(({ cidr }) => !want.includes(cidr));
      for (const { cidr } of surplus) await host.addresses.delete(there, cidr);
      let changed = surplus.length > 0;
      for (const cidr of want.filter((one) => have.every(({ cidr }) => cidr !== one)))
        changed = (await host.addresses.add(there, cidr)) || changed;
      return changed;
    },
    revert: () => Promise.resolve(),
  };
}
