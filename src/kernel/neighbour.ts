import { isErrno } from "../errors.ts";
import { formatIp, ipBytes, parseIp } from "../ip.ts";
import { macBytes } from "../mac.ts";
import { AF } from "./libc.ts";
import { Attributes, bytes, u8 } from "./netlink/message.ts";
import { IFINFOMSG, RTM, RTPROT_TSNET, type Rtnetlink } from "./netlink/rtnetlink.ts";
import { CREATE_OR_REPLACE } from "./netlink/socket.ts";

const NDA = { DST: 1, LLADDR: 2, PROTOCOL: 12 } as const;
/** Never asked for again (linux/neighbour.h). */
const NUD_PERMANENT = 0x80;
const NDMSG = 12;
/** The kernel lets a dump of this family be of one link, if it is asked with the head of links (rtnl_fdb_dump). */
const AF_BRIDGE = 7;

/** Which MAC has an address on a link, known once and for all. */
export interface Neighbour {
  /** Index. */
  readonly link: number;
  /** Bare. */
  readonly address: string;
  readonly mac: string;
}

/** Neighbour entries of the namespace the daemon runs in. */
export class Neighbours {
  readonly #netlink: Rtnetlink;

  constructor(netlink: Rtnetlink) {
    this.#netlink = netlink;
  }

  /** The entries that tsnet made. */
  async own(): Promise<Omit<Neighbour, "mac">[]> {
    const answers = await this.#netlink.dump("ip neigh show", RTM.GETNEIGH, Buffer.alloc(NDMSG));
    return answers.flatMap((payload) => ownNeighbour(payload) ?? []);
  }

  /** The MAC of a permanent entry, or undefined. */
  async get({ link, address }: Omit<Neighbour, "mac">): Promise<string | undefined> {
    const payload = message(link, address);
    try {
      const answer = await this.#netlink.request(`ip neigh get ${address}`, RTM.GETNEIGH, 0, payload);
      if ((answer.readUInt16LE(8) & NUD_PERMANENT) === 0) return undefined;
      return new Attributes(answer, NDMSG).mac(NDA.LLADDR);
    } catch (error) {
      if (isErrno(error, "ENOENT", "ENODEV")) return undefined;
      throw error;
    }
  }

  /**
   * The MACs beside its own that a link takes frames for: on a macvlan's parent those of the macvlans that are up,
   * whatever namespace they are in, but for one in mode passthru, which has the parent's.
   */
  async takenBy(link: number): Promise<Set<string>> {
    const head = Buffer.alloc(IFINFOMSG);
    head.writeUInt8(AF_BRIDGE, 0);
    head.writeInt32LE(link, 4);
    const answers = await this.#netlink.dump("bridge fdb show", RTM.GETNEIGH, head);
    return new Set(answers.map((payload) => new Attributes(payload, NDMSG).mac(NDA.LLADDR)));
  }

  /** Makes an entry, in place of what is known of the address. */
  async set({ link, address, mac }: Neighbour): Promise<void> {
    const payload = Buffer.concat([
      message(link, address, NUD_PERMANENT),
      bytes(NDA.LLADDR, macBytes(mac)),
      u8(NDA.PROTOCOL, RTPROT_TSNET),
    ]);
    await this.#netlink.request(`ip neigh replace ${address}`, RTM.NEWNEIGH, CREATE_OR_REPLACE, payload);
  }

  /** Deletes an entry; being gone already, or its link, is success. */
  async delete({ link, address }: Omit<Neighbour, "mac">): Promise<void> {
    try {
      await this.#netlink.request(`ip neigh del ${address}`, RTM.DELNEIGH, 0, message(link, address));
    } catch (error) {
      if (!isErrno(error, "ENOENT", "ENODEV")) throw error;
    }
  }
}

/** What a message about a neighbour is about, if tsnet made the entry. */
export function ownNeighbour(payload: Buffer): Omit<Neighbour, "mac"> | undefined {
  const found = new Attributes(payload, NDMSG);
  const address = found.get(NDA.DST);
  if (!address || found.u8(NDA.PROTOCOL) !== RTPROT_TSNET) return undefined;
  return { link: payload.readUInt32LE(4), address: formatIp(address) };
}

/** struct ndmsg: family, padding, link, state, flags, type. */
function message(link: number, address: string, state = 0): Buffer {
  const head = Buffer.alloc(NDMSG);
  head.writeUInt8(AF[parseIp(address).family], 0);
  head.writeUInt32LE(link, 4);
  head.writeUInt16LE(state, 8);
  return Buffer.concat([head, bytes(NDA.DST, ipBytes(address))]);
}
