import { isErrno } from "../errors.ts";
import { type ParsedCidr, formatIp, ipBytes, parseCidr } from "../ip.ts";
import { AF } from "./libc.ts";
import { Attributes, bytes, u32 } from "./netlink/message.ts";
import { RTM, type Rtnetlink } from "./netlink/rtnetlink.ts";
import { CREATE_EXCLUSIVE } from "./netlink/socket.ts";

const IFA = { ADDRESS: 1, LOCAL: 2, BROADCAST: 4, FLAGS: 8 } as const;
/**
 * Flags of an address (linux/if_addr.h). NODAD: usable at once, since it was allocated and nobody else can have it (RFC
 * 4862, section 5.4, may be left out). NOPREFIXROUTE: one that is a whole subnet needs no route to its neighbours.
 */
const IFA_F = {
  TEMPORARY: 1,
  NODAD: 2,
  DADFAILED: 8,
  DEPRECATED: 0x20,
  TENTATIVE: 0x40,
  NOPREFIXROUTE: 0x200,
} as const;
const IFADDRMSG = 8;

/** An address on a link, with its prefix length. */
export interface LinkAddress {
  readonly index: number;
  readonly cidr: string;
  /** Nobody else on the link has it. False also as long as that is not known (RFC 4862, section 5.4). */
  readonly usable: boolean;
  /** It will be gone some day, or must not be what new connections come from (RFC 4862, section 5.5.4; RFC 8981). */
  readonly passing: boolean;
}

/** IP addresses of the links in the daemon's namespace. */
export class Addresses {
  readonly #netlink: Rtnetlink;

  constructor(netlink: Rtnetlink) {
    this.#netlink = netlink;
  }

  /** Puts an address on a link. Resolves to false if it was there; one of IPv6, with whatever prefix length. */
  async add(link: { index: number; name: string }, cidr: string): Promise<boolean> {
    try {
      await this.#change("add", RTM.NEWADDR, CREATE_EXCLUSIVE, link, cidr);
      return true;
    } catch (error) {
      if (isErrno(error, "EEXIST")) return false;
      throw error;
    }
  }

  /** Takes an address off a link; being off already, or the link being gone, is success. */
  async delete(link: { index: number; name: string }, cidr: string): Promise<void> {
    try {
      await this.#change("del", RTM.DELADDR, 0, link, cidr);
    } catch (error) {
      if (!isErrno(error, "EADDRNOTAVAIL", "ENODEV")) throw error;
    }
  }

  /** Every address of every link. */
  async list(): Promise<LinkAddress[]> {
    const answers = await this.#netlink.dump("ip address show", RTM.GETADDR, Buffer.alloc(IFADDRMSG));
    return answers.flatMap((payload) => {
      const found = new Attributes(payload, IFADDRMSG);
      const address = found.get(IFA.LOCAL) ?? found.get(IFA.ADDRESS);
      if (!address) return [];
      // The header has room for the first eight only.
      const flags = found.u32(IFA.FLAGS) || (payload[2] ?? 0);
      return [
        {
          index: payload.readUInt32LE(4),
          cidr: `${formatIp(address)}/${payload[1]}`,
          usable: (flags & (IFA_F.TENTATIVE | IFA_F.DADFAILED)) === 0,
          // Of IPv4 the first bit is that of a secondary address.
          passing: (flags & (IFA_F.DEPRECATED | (payload[0] === AF[6] ? IFA_F.TEMPORARY : 0))) !== 0,
        },
      ];
    });
  }

  /** Every address of one link. */
  async on(link: { index: number }): Promise<LinkAddress[]> {
    return (await this.list()).filter(({ index }) => index === link.index);
  }

  async #change(
    verb: "add" | "del",
    type: number,
    flags: number,
    link: { index: number; name: string },
    cidr: string,
  ): Promise<void> {
    const payload = addressMessage(link.index, parseCidr(cidr));
    await this.#netlink.request(`ip address ${verb} ${cidr} dev ${link.name}`, type, flags, payload);
  }
}

function addressMessage(index: number, { family, address, length }: ParsedCidr): Buffer {
  const head = Buffer.alloc(IFADDRMSG);
  head.writeUInt8(AF[family], 0);
  head.writeUInt8(length, 1);
  head.writeUInt32LE(index, 4);
  const raw = ipBytes(address);
  const parts = [head, bytes(IFA.LOCAL, raw), bytes(IFA.ADDRESS, raw)];
  // The kernel tells programs no other one than it was given (SIOCGIFBRDADDR, netdevice(7)); RFC 3021 knows none.
  if (family === 4 && length <= 30) parts.push(bytes(IFA.BROADCAST, lastOf(raw, length)));
  if (family === 6) parts.push(u32(IFA.FLAGS, IFA_F.NODAD | (length === 128 ? IFA_F.NOPREFIXROUTE : 0)));
  return Buffer.concat(parts);
}

/** The last address of an IPv4 subnet, which is everybody's (RFC 919). */
function lastOf(address: Buffer, length: number): Buffer {
  const last = Buffer.alloc(4);
  last.writeUInt32BE((address.readUInt32BE() | (0xffff_ffff >>> length)) >>> 0);
  return last;
}
