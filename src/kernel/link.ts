import { isErrno } from "../errors.ts";
import { macBytes } from "../mac.ts";
import { Remembered } from "../remembered.ts";
import { AF } from "./libc.ts";
import { Attributes, bytes, nest, text, u16, u32, u8 } from "./netlink/message.ts";
import { IFINFOMSG, RTM, type Rtnetlink } from "./netlink/rtnetlink.ts";
import { CREATE_EXCLUSIVE } from "./netlink/socket.ts";

/** Attributes of a link, linux/if_link.h. */
const IFLA = {
  ADDRESS: 1,
  IFNAME: 3,
  MTU: 4,
  LINK: 5,
  MASTER: 10,
  LINKINFO: 18,
  IFALIAS: 20,
  AF_SPEC: 26,
  GROUP: 27,
  NET_NS_FD: 28,
  EXT_MASK: 29,
  CARRIER: 33,
  LINK_NETNSID: 37,
  ALT_IFNAME: 53,
  GSO_MAX_SIZE: 41,
  GRO_MAX_SIZE: 58,
  TSO_MAX_SIZE: 59,
  GSO_IPV4_MAX_SIZE: 63,
  GRO_IPV4_MAX_SIZE: 64,
} as const;
const INFO = { KIND: 1, DATA: 2, SLAVE_DATA: 5, SLAVE_KIND: 4 } as const;
const VETH_INFO_PEER = 1;
const MACVLAN_MODE = 1;
/** ip-link(8), linux/if_link.h. */
const MACVLAN_MODES = { private: 1, vepa: 2, bridge: 4, passthru: 8 } as const;
const VLAN_ID = 1;
const BRPORT = { MODE: 4, ISOLATED: 33 } as const;
const INET6_ADDR_GEN_MODE = 8;
const IFF_UP = 1;
/** Bytes that a link's own name has at most (IFNAMSIZ, linux/if.h, less the zero at its end). */
export const NAME_LENGTH = 15;
/** Type of a link that carries Ethernet frames, as loopback does not (linux/if_arp.h). */
const ARPHRD_ETHER = 1;
/** Leaves the counters out of the answer: they are most of it. */
const RTEXT_FILTER_SKIP_STATS = 8;

/** A network device as the kernel describes it. */
export interface Link {
  readonly index: number;
  readonly name: string;
  /** `bridge`, `veth`, …; empty for hardware. */
  readonly kind: string;
  /** Colon-separated, lower case. */
  readonly mac: string;
  readonly mtu: number;
  readonly up: boolean;
  /** Something answers at the other end of the wire. False while it is down. */
  readonly carrier: boolean;
  readonly ethernet: boolean;
  /** Index of the bridge it is a port of; 0 for none. */
  readonly master: number;
  /** Index of the link it sits on, or of a veth pair's other end; 0 for none. */
  readonly lower: number;
  /** Whether {@link lower} is an index in another namespace. */
  readonly lowerElsewhere: boolean;
  readonly alias: string;
  readonly group: number;
  /** As a bridge port: cut off from the other isolated ports. */
  readonly isolated: boolean;
  /** As a bridge port: frames may go out where they came in. */
  readonly hairpin: boolean;
  /** Bytes a packet may have before it is cut to the MTU, as set now. */
  readonly gsoMaxSize: number;
  /** What gsoMaxSize can be raised to (BIG TCP, Linux 6.3); 0 where the kernel lacks it for IPv4. */
  readonly gsoLimit: number;
}

/** What can be set on a link after it was made. Absent fields stay as they are. */
export interface LinkSettings {
  readonly mac?: string;
  readonly mtu?: number;
  readonly up?: boolean;
  readonly master?: number;
  readonly alias?: string;
  readonly isolated?: boolean;
  readonly hairpin?: boolean;
  readonly gsoMaxSize?: number;
  /** False: the kernel gives the link no IPv6 link-local address by itself. */
  readonly linkLocal?: boolean;
  readonly group?: number;
}

/** What the macvlan links on one parent are to each other: see ip-link(8). */
export type MacvlanMode = keyof typeof MACVLAN_MODES;

/** A link to be made. It exists with all of this or not at all. */
export interface NewLink extends LinkSettings {
  readonly name: string;
  readonly kind: LinkKind;
  /** Set together with the name, so that a link is recognisable as tsnet's from its first instant. */
  readonly group: number;
  /** The other end of a veth pair. */
  readonly peer?: { readonly name: string; readonly mac: string; readonly gsoMaxSize?: number };
  /** Of a macvlan; the parent is an index in this namespace. */
  readonly macvlan?: { readonly parent: number; readonly mode: MacvlanMode };
  /** Of a VLAN's link; the parent is an index. */
  readonly vlan?: { readonly parent: number; readonly id: number };
  /** Open descriptor of the network namespace to make it in. Absent: this one. */
  readonly netns?: number;
}

/** Kinds of links that tsnet makes. */
export type LinkKind = "bridge" | "veth" | "macvlan" | "vlan" | "dummy" | "ifb";

/** Links of the namespace the daemon runs in, which is the engine's. */
export class Links {
  readonly #netlink: Rtnetlink;
  readonly #kinds = new Set<LinkKind>();
  /** By name, while they are remembered. */
  readonly #remembered = new Remembered<ReadonlyMap<string, Link>>();

  constructor(netlink: Rtnetlink) {
    this.#netlink = netlink;
  }

  /**
   * Lists every link and answers {@link get} from that, for whoever looks at all of them: until tsnet changes one, or
   * {@link forget}.
   */
  async remember(): Promise<Link[]> {
    const links = await this.#remembered.fill(
      async () => new Map((await this.list()).map((link) => [link.name, link])),
    );
    return [...links.values()];
  }

  /** Somebody else has changed a link, or nobody looks at all of them any more. */
  forget(): void {
    this.#remembered.forget();
  }

  /** The link of that name, or undefined. */
  async get(name: string): Promise<Link | undefined> {
    const remembered = this.#remembered.value?.get(name);
    if (remembered) return remembered;
    const attribute = Buffer.byteLength(name) > NAME_LENGTH ? IFLA.ALT_IFNAME : IFLA.IFNAME;
    return await this.#one(name, Buffer.concat([header(), text(attribute, name), SKIP_STATS]));
  }

  /** The link of that index, or undefined, as for 0: that is none's. */
  async at(index: number): Promise<Link | undefined> {
    if (index === 0) return undefined;
    const head = header();
    head.writeInt32LE(index, 4);
    return await this.#one(`if${index}`, Buffer.concat([head, SKIP_STATS]));
  }

  /** Every link, or those of a kind: a kernel that has the kind lists no others. */
  async list(kind?: LinkKind): Promise<Link[]> {
    const only = kind ? [nest(IFLA.LINKINFO, text(INFO.KIND, kind))] : [];
    const payload = Buffer.concat([header(), SKIP_STATS, ...only]);
    const answers = await this.#netlink.dump("ip link show", RTM.GETLINK, payload);
    return answers.map(parseLink).filter((link) => kind === undefined || link.kind === kind);
  }

  /**
   * Makes a link.
   *
   * @throws {KernelError} EEXIST if the name of either end is taken
   */
  async add(link: NewLink): Promise<void> {
    const command = `ip link add ${link.name} type ${link.kind}`;
    await this.#request(command, RTM.NEWLINK, newLink(link), CREATE_EXCLUSIVE);
  }

  /**
   * Whether the kernel can make links of that kind; it loads the module if there is one. Nothing is made: the
   * kernel looks for the kind first and refuses the MAC address, which is too short, then. (One that does not look at
   * its length makes the link, which is deleted again.)
   */
  async canMake(kind: LinkKind): Promise<boolean> {
    if (this.#kinds.has(kind)) return true;
    const probe = "ts-probe";
    const payload = Buffer.concat([
      header(),
      text(IFLA.IFNAME, probe),
      u8(IFLA.ADDRESS, 0),
      nest(IFLA.LINKINFO, text(INFO.KIND, kind)),
    ]);
    try {
      await this.#request(`ip link add type ${kind}`, RTM.NEWLINK, payload, CREATE_EXCLUSIVE);
      await this.delete(probe);
    } catch (error) {
      if (isErrno(error, "EOPNOTSUPP", "ENOTSUP")) return false;
      if (!isErrno(error, "EINVAL")) throw error;
    }
    this.#kinds.add(kind);
    return true;
  }

  /** Deletes a link; being gone already is success. Waits for the kernel's grace period, see {@link LinkRemover}. */
  async delete(name: string): Promise<void> {
    try {
      const payload = Buffer.concat([header(), text(IFLA.IFNAME, name)]);
      await this.#request(`ip link delete ${name}`, RTM.DELLINK, payload);
    } catch (error) {
      if (!isErrno(error, "ENODEV")) throw error;
    }
  }

  /** Changes an existing link. */
  async set(name: string, settings: LinkSettings): Promise<void> {
    try {
      await this.#change(name, settings);
    } catch (error) {
      const { linkLocal, ...others } = settings;
      if (linkLocal === undefined || !isErrno(error, "EAFNOSUPPORT")) throw error;
      // It has nothing of IPv6: the kernel is without, or the MTU is below what that needs. Nothing was changed.
      await this.#change(name, others);
    }
  }

  /** Gives a link another name. */
  async rename({ name, index }: Pick<Link, "name" | "index">, to: string): Promise<void> {
    const change = async () => {
      const payload = Buffer.concat([header({ index }), text(IFLA.IFNAME, to)]);
      await this.#request(`ip link set ${name} name ${to}`, RTM.NEWLINK, payload);
    };
    try {
      await change();
    } catch (error) {
      // Before Linux 6.2 one that is up keeps its name.
      if (!isErrno(error, "EBUSY")) throw error;
      await this.#change(name, { up: false });
      await change();
    }
  }

  async #change(name: string, settings: LinkSettings): Promise<void> {
    const payload = Buffer.concat([
      header({ up: settings.up }),
      text(IFLA.IFNAME, name),
      ...settable(settings),
    ]);
    await this.#request(`ip link set ${name}`, RTM.NEWLINK, payload);
  }

  /** Asks for a change. */
  async #request(command: string, type: number, payload: Buffer, flags = 0): Promise<void> {
    try {
      await this.#netlink.request(command, type, flags, payload);
    } finally {
      this.forget();
    }
  }

  async #one(what: string, payload: Buffer): Promise<Link | undefined> {
    try {
      return parseLink(await this.#netlink.request(`ip link show ${what}`, RTM.GETLINK, 0, payload));
    } catch (error) {
      if (isErrno(error, "ENODEV")) return undefined;
      throw error;
    }
  }
}

/**
 * Index of the link that a macvlan made on this one sits on, see {@link Link.lower}: a macvlan carries no other, and
 * the kernel takes the link below it instead (macvlan_common_newlink, drivers/net/macvlan.c).
 */
export function macvlanLower({ kind, index, lower }: Pick<Link, "kind" | "index" | "lower">): number {
  return (kind === "macvlan" || kind === "macvtap") && lower !== 0 ? lower : index;
}

/** The link that a NEWLINK or DELLINK message is about. */
export function parseLink(payload: Buffer): Link {
  const found = new Attributes(payload, IFINFOMSG);
  const info = found.nest(IFLA.LINKINFO);
  const port = info.nest(INFO.SLAVE_DATA);
  return {
    index: payload.readInt32LE(4),
    up: (payload.readUInt32LE(8) & IFF_UP) !== 0,
    name: found.text(IFLA.IFNAME),
    kind: info.text(INFO.KIND),
    mac: found.mac(IFLA.ADDRESS),
    mtu: found.u32(IFLA.MTU),
    carrier: found.u8(IFLA.CARRIER) === 1,
    ethernet: payload.readUInt16LE(2) === ARPHRD_ETHER,
    master: found.u32(IFLA.MASTER),
    lower: found.u32(IFLA.LINK),
    lowerElsewhere: found.has(IFLA.LINK_NETNSID),
    alias: found.text(IFLA.IFALIAS),
    group: found.u32(IFLA.GROUP),
    isolated: port.u8(BRPORT.ISOLATED) === 1,
    hairpin: port.u8(BRPORT.MODE) === 1,
    gsoMaxSize: found.u32(IFLA.GSO_MAX_SIZE),
    gsoLimit: found.has(IFLA.GSO_IPV4_MAX_SIZE) ? found.u32(IFLA.TSO_MAX_SIZE) : 0,
  };
}

/** The payload of a DELLINK request for every link of a group. */
export function deleteGroupPayload(group: number): Buffer {
  return Buffer.concat([header(), u32(IFLA.GROUP, group)]);
}

const SKIP_STATS = u32(IFLA.EXT_MASK, RTEXT_FILTER_SKIP_STATS);

/** struct ifinfomsg: family, type, index, flags, mask of the flags to change. Index 0: the one that is named. */
function header({ index = 0, up }: { index?: number; up?: boolean | undefined } = {}): Buffer {
  const out = Buffer.alloc(IFINFOMSG);
  out.writeInt32LE(index, 4);
  if (up !== undefined) {
    out.writeUInt32LE(up ? IFF_UP : 0, 8);
    out.writeUInt32LE(IFF_UP, 12);
  }
  return out;
}

function newLink(link: NewLink): Buffer {
  const { peer, macvlan, vlan, netns } = link;
  const data: Buffer[] = [];
  if (peer) data.push(veth(peer, link));
  if (macvlan) data.push(u32(MACVLAN_MODE, MACVLAN_MODES[macvlan.mode]));
  if (vlan) data.push(u16(VLAN_ID, vlan.id));
  const parent = macvlan?.parent ?? vlan?.parent;
  return Buffer.concat([
    header({ up: link.up }),
    text(IFLA.IFNAME, link.name),
    ...(netns === undefined ? [] : [u32(IFLA.NET_NS_FD, netns)]),
    ...(parent === undefined ? [] : [u32(IFLA.LINK, parent)]),
    ...settable(link),
    nest(IFLA.LINKINFO, text(INFO.KIND, link.kind), ...(data.length > 0 ? [nest(INFO.DATA, ...data)] : [])),
  ]);
}

/** The far end takes the near end's MTU and group; it is moved into a sandbox and brought up there. */
function veth({ name, ...settings }: NonNullable<NewLink["peer"]>, { mtu, group }: NewLink): Buffer {
  const all = { group, ...(mtu === undefined ? {} : { mtu }), ...settings };
  return nest(VETH_INFO_PEER, Buffer.concat([header(), text(IFLA.IFNAME, name), ...settable(all)]));
}

function settable(settings: LinkSettings): Buffer[] {
  const { mac, mtu, master, alias, isolated, hairpin, gsoMaxSize, linkLocal, group } = settings;
  const out: Buffer[] = [];
  if (mac !== undefined) out.push(bytes(IFLA.ADDRESS, macBytes(mac)));
  if (mtu !== undefined) out.push(u32(IFLA.MTU, mtu));
  if (master !== undefined) out.push(u32(IFLA.MASTER, master));
  if (group !== undefined) out.push(u32(IFLA.GROUP, group));
  if (alias !== undefined) out.push(text(IFLA.IFALIAS, alias));
  if (gsoMaxSize !== undefined) {
    for (const type of [IFLA.GSO_MAX_SIZE, IFLA.GRO_MAX_SIZE, IFLA.GSO_IPV4_MAX_SIZE, IFLA.GRO_IPV4_MAX_SIZE])
      out.push(u32(type, gsoMaxSize));
  }
  const port = [
    ...(isolated === undefined ? [] : [u8(BRPORT.ISOLATED, isolated ? 1 : 0)]),
    ...(hairpin === undefined ? [] : [u8(BRPORT.MODE, hairpin ? 1 : 0)]),
  ];
  if (port.length > 0)
    out.push(nest(IFLA.LINKINFO, text(INFO.SLAVE_KIND, "bridge"), nest(INFO.SLAVE_DATA, ...port)));
  if (linkLocal !== undefined)
    out.push(nest(IFLA.AF_SPEC, nest(AF[6], u8(INET6_ADDR_GEN_MODE, linkLocal ? 0 : 1))));
  return out;
}
