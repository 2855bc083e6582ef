import type { Rule } from "../firewall/rule.ts";
import { shimRules } from "../firewall/shim-rules.ts";
import { FAMILIES, type Family, bare, contains, hostSubnet, parseCidr } from "../ip.ts";
import type { Host } from "../kernel/host.ts";
import type { Link } from "../kernel/link.ts";
import { readSysctl } from "../kernel/sysctl.ts";
import {
  type Endpoint,
  HOST_AUX,
  type Network,
  type Pool,
  bareAddresses,
  lanAddresses,
  pools,
} from "../model.ts";
import { linkAlias, privateParentName, ruleComment, shimMac, shimName } from "../names.ts";
import { type Step, untilLast } from "../step.ts";
import { exactAddresses } from "../steps/address.ts";
import { hostRoute, neighbourEntry } from "../steps/route.ts";
import { linkUp, shimLink } from "../steps/shim.ts";
import { sysctl } from "../steps/sysctl.ts";
import type { State } from "../store/state.ts";

/** Of arp_ignore: an address is answered for on a link that has it, and on no other. */
const ANSWERED_THERE = "1";
/** The same, but only to who is in its subnet there, which on S is the address alone; and never. */
const UNANSWERED: readonly string[] = ["2", "8"];

/** The host's addresses in one pool, bare: the first is the one it speaks to containers from. */
interface HostAddresses {
  readonly pool: Pool;
  readonly addresses: readonly string[];
}

/**
 * What lets a host and its own macvlan containers reach each other: a link of the host's own beside theirs (S), and a
 * route by it to each of their addresses. One of these is the address that a container gives itself where a router
 * announces the subnet: it speaks from that, since it is newer (ipv6_dev_get_saddr, net/ipv6/addrconf.c). The host asks
 * nobody who has an address there, since its neighbour entries are permanent, and S answers nobody but the containers
 * (arp_filter, shimRules). For the LAN everything stays as it was: the host's addresses are the parent's, at the parent's
 * MAC.
 */
export class HostAccess {
  readonly #host: Host;
  readonly #state: Pick<State, "endpoints">;

  /** @param state whom S is shared with */
  constructor(host: Host, state: Pick<State, "endpoints">) {
    this.#host = host;
    this.#state = state;
  }

  /** What an endpoint needs. S comes with the first endpoint and goes with the last. */
  steps(network: Network, parent: string, endpoint: Endpoint): Step[] {
    const host = this.#host;
    const { id, ipv6 } = network;
    const link = shimName(id);
    const others = () => this.#state.endpoints(id).filter((other) => other.id !== endpoint.id);
    const shim = { name: link, alias: linkAlias("shim", id), parent, mac: shimMac(id) };
    let known: Promise<HostAddresses[]> | undefined;
    const hostAddresses = () => (known ??= this.#addresses(network, parent));
    return [
      untilLast(shimLink(host, shim), others),
      sysctl(`net/ipv4/conf/${link}/arp_filter`, "1"),
      sysctl(`net/ipv4/conf/${link}/arp_ignore`, "0"),
      sysctl(`net/ipv6/conf/${link}/accept_ra`, "0"),
      sysctl(`net/ipv6/conf/${link}/disable_ipv6`, ipv6.length > 0 ? "0" : "1"),
      linkUp(host, link),
      exactAddresses(host, link, async () => onShim(await hostAddresses())),
      ...lanAddresses(endpoint).flatMap((address) => {
        const source = async () => sourceTo(await hostAddresses(), address);
        const route = { link, address, mac: endpoint.mac, source };
        return [neighbourEntry(host, route), hostRoute(host, route)];
      }),
    ];
  }

  /** What keeps the host from its containers that no step can change, in one line; undefined if nothing does. */
  async trouble(network: Network, parent: string): Promise<string | undefined> {
    const all = await this.#addresses(network, parent);
    const without = all.find(({ addresses }) => addresses.length === 0)?.pool;
    if (without) {
      const remedy = `reserve one with --aux-address ${HOST_AUX[familyOf(without)]}=ADDRESS`;
      return parent === privateParentName(network.id)
        ? `host_access: the host has no address in ${without.subnet}; ${remedy}`
        : `host_access: parent ${parent} has no address in ${without.subnet}; give it one, or ${remedy}`;
    }
    const ignore = arpIgnore();
    if (network.ipv4.length > 0 && UNANSWERED.includes(ignore))
      return `host_access: with net.ipv4.conf.all.arp_ignore=${ignore} the host answers none of its containers; 0 and 1 will do`;
    // Whatever leads elsewhere leads there for all of them.
    const [first] = this.#state.endpoints(network.id);
    const ways = bareAddresses(first ?? {}).map((address) => ({
      address,
      source: sourceTo(all, address),
    }));
    return await this.#detour(shimName(network.id), ways);
  }

  /** Tables that come first may have another way, for everybody or for who speaks from there (ip-rule(8)). */
  async #detour(
    name: string,
    ways: readonly { readonly address: string; readonly source: string | undefined }[],
  ): Promise<string | undefined> {
    for (const { address, source } of ways)
      for (const from of [undefined, source]) {
        const way = await this.#host.routes.to(address, from);
        const link = await this.#host.links.get(name);
        // Without carrier the kernel may heed no route (ignore_routes_with_linkdown).
        if (!link?.up || !link.carrier) return undefined;
        // Where its own route is missing, no rule is to blame: that of an endpoint that is looked at next.
        if (way?.link !== link.index && (await this.#hasRoute(link, address)))
          return `host_access: packets ${from ? `from ${from} ` : ""}to ${address} do not go by ${name}: a rule leads them elsewhere (ip rule)`;
      }
    return undefined;
  }

  async #hasRoute(link: Link, address: string): Promise<boolean> {
    const routes = await this.#host.routes.list();
    return routes.some((route) => route.link === link.index && route.subnet === hostSubnet(address));
  }

  /** Those reserved for the host, then the parent's own that it can use, those that will last first. */
  async #addresses({ id, ipv4, ipv6 }: Network, parent: string): Promise<HostAddresses[]> {
    const link = (await this.#host.links.get(parent)) ?? (await this.#renamed(id));
    const all = link ? await this.#host.addresses.on(link) : [];
    const there = all
      .filter(({ usable }) => usable)
      .sort((a, b) => Number(a.passing) - Number(b.passing))
      .map(({ cidr }) => bare(cidr));
    return [...ipv4, ...ipv6].map((pool) => ({
      pool,
      addresses: [...new Set([...reserved(pool), ...there.filter((address) => has(pool, address))])],
    }));
  }

  /** The parent while it is called otherwise: S and the containers go on working there, and with the same addresses. */
  async #renamed(network: string): Promise<Link | undefined> {
    const shim = await this.#host.links.get(shimName(network));
    return shim?.lower && !shim.lowerElsewhere ? await this.#host.links.at(shim.lower) : undefined;
  }
}

/** The firewall rules of a network with host access. */
export function accessRules(network: Network): Rule[] {
  const families = FAMILIES.filter((family) => pools(network, family).length > 0);
  return families.flatMap((family) => shimRules(shimName(network.id), family, ruleComment(network.id)));
}

/**
 * An IPv6 address must be on the link that answers for it; of IPv4 only one that is nowhere else, unless the host wants
 * it.
 */
function onShim(all: readonly HostAddresses[]): string[] {
  const isOnlyThere = arpIgnore() === ANSWERED_THERE;
  return all.flatMap(({ pool, addresses }) =>
    (familyOf(pool) === 6 || isOnlyThere ? addresses : reserved(pool)).map(hostSubnet),
  );
}

/** The host's rule for ARP on all links, of which the strictest counts (ip-sysctl.rst). */
function arpIgnore(): string {
  return readSysctl("net/ipv4/conf/all/arp_ignore") ?? "0";
}

/** The address that the host speaks to a container from. */
function sourceTo(all: readonly HostAddresses[], address: string): string | undefined {
  return all.find(({ pool }) => has(pool, address))?.addresses[0];
}

/** The address reserved for the host; `host` will do for either family. */
function reserved(pool: Pool): string[] {
  const address = pool.aux[HOST_AUX[familyOf(pool)]] ?? pool.aux[HOST_AUX[4]];
  return address ? [bare(address)] : [];
}

function familyOf({ subnet }: Pool): Family {
  return parseCidr(subnet).family;
}

function has({ subnet }: Pool, address: string): boolean {
  return contains(subnet, address);
}
