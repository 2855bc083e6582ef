import { isErrno } from "../errors.ts";
import { type Family, UNSPECIFIED, bare, formatIp, hostSubnet, ipBytes, parseCidr } from "../ip.ts";
import { AF } from "./libc.ts";
import { Attributes, bytes, u32 } from "./netlink/message.ts";
import { RTM, RTPROT_TSNET, type Rtnetlink } from "./netlink/rtnetlink.ts";
import { CREATE_OR_REPLACE } from "./netlink/socket.ts";

const RTA = { DST: 1, SRC: 2, OIF: 4, GATEWAY: 5, PRIORITY: 6, PREFSRC: 7, TABLE: 15 } as const;
const RT_TABLE_MAIN = 254;
const RT_SCOPE_UNIVERSE = 0;
const RT_SCOPE_LINK = 253;
const RTN_UNICAST = 1;
const RTN_LOCAL = 2;
const RTPROT_KERNEL = 2;
/** Answers with the route itself and not with what it means for the address. */
const RTM_F_FIB_MATCH = 0x2000;
const RTMSG = 12;

/** A unicast route of the main table. */
export interface Route {
  /** Network address with prefix length; `0.0.0.0/0` or `::/0` for a default route. */
  readonly subnet: string;
  /** Index of the link it leads through; 0 for a multipath route. */
  readonly link: number;
  readonly metric: number;
  /** Address that packets get which have none yet; bare, empty where the kernel chooses. */
  readonly source: string;
  /** Whether tsnet made it. */
  readonly own: boolean;
  /** Whether it is that of an address on the link. */
  readonly connected: boolean;
}

/** A route to be made. */
export interface NewRoute {
  readonly subnet: string;
  readonly link: number;
  /** Bare address of the next hop; absent: on the link. */
  readonly gateway?: string;
  readonly source?: string;
}

/** The main routing table of a namespace, both families. */
export class Routes {
  readonly #netlink: Rtnetlink;

  constructor(netlink: Rtnetlink) {
    this.#netlink = netlink;
  }

  /** All of them. */
  async list(): Promise<Route[]> {
    const answers = await this.#netlink.dump("ip route show", RTM.GETROUTE, Buffer.alloc(RTMSG));
    return answers.flatMap((payload) => {
      const found = new Attributes(payload, RTMSG);
      const table = found.has(RTA.TABLE) ? found.u32(RTA.TABLE) : payload[4];
      return table === RT_TABLE_MAIN && payload[7] === RTN_UNICAST ? [parseRoute(payload)] : [];
    });
  }

  /**
   * The route that packets to a bare address take, from whatever address or from this one of the host's; undefined if
   * there is none.
   */
  async to(address: string, source?: string): Promise<Route | undefined> {
    const found = await this.#lookUp(address, source);
    return found && parseRoute(found);
  }

  /** Whether packets to a bare address are the host's own. */
  async isLocal(address: string): Promise<boolean> {
    return (await this.#lookUp(address))?.[7] === RTN_LOCAL;
  }

  /** Makes a route, in place of one to the same subnet. */
  async add(route: NewRoute): Promise<void> {
    const command = `ip route replace ${route.subnet}`;
    await this.#netlink.request(command, RTM.NEWROUTE, CREATE_OR_REPLACE, routeMessage(route));
  }

  /** Deletes a route; being gone already, or its link, is success. */
  async delete(route: NewRoute): Promise<void> {
    try {
      await this.#netlink.request(`ip route del ${route.subnet}`, RTM.DELROUTE, 0, routeMessage(route));
    } catch (error) {
      if (!isErrno(error, "ESRCH", "ENODEV")) throw error;
    }
  }

  async #lookUp(address: string, source?: string): Promise<Buffer | undefined> {
    const host = parseCidr(hostSubnet(address));
    const head = header(host.family, host.length);
    head.writeUInt32LE(RTM_F_FIB_MATCH, 8);
    if (source) head.writeUInt8(host.length, 2);
    const payload = Buffer.concat([
      head,
      bytes(RTA.DST, ipBytes(address)),
      ...(source ? [bytes(RTA.SRC, ipBytes(source))] : []),
    ]);
    try {
      return await this.#netlink.request(`ip route get ${address}`, RTM.GETROUTE, 0, payload);
    } catch (error) {
      if (isErrno(error, "ENETUNREACH", "EHOSTUNREACH", "EACCES", "EINVAL")) return undefined;
      throw error;
    }
  }
}

/** The route that a message is about. */
export function parseRoute(payload: Buffer): Route {
  const found = new Attributes(payload, RTMSG);
  const any = UNSPECIFIED[payload[0] === AF[4] ? 4 : 6];
  const destination = found.get(RTA.DST);
  const source = found.get(RTA.PREFSRC);
  return {
    subnet: `${destination ? formatIp(destination) : any}/${payload[1]}`,
    link: found.u32(RTA.OIF),
    metric: found.u32(RTA.PRIORITY),
    source: source ? formatIp(source) : "",
    own: payload[5] === RTPROT_TSNET,
    connected: payload[5] === RTPROT_KERNEL,
  };
}

/** struct rtmsg: family, lengths of destination and source, tos, table, protocol, scope, type, flags. */
function header(family: Family, length: number): Buffer {
  const head = Buffer.alloc(RTMSG);
  head.writeUInt8(AF[family], 0);
  head.writeUInt8(length, 1);
  return head;
}

function routeMessage({ subnet, link, gateway, source }: NewRoute): Buffer {
  const { family, length } = parseCidr(subnet);
  const head = header(family, length);
  head.writeUInt8(RT_TABLE_MAIN, 4);
  head.writeUInt8(RTPROT_TSNET, 5);
  head.writeUInt8(gateway || family === 6 ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK, 6);
  head.writeUInt8(RTN_UNICAST, 7);
  const parts = [head, u32(RTA.OIF, link)];
  if (length > 0) parts.push(bytes(RTA.DST, ipBytes(bare(subnet))));
  if (gateway) parts.push(bytes(RTA.GATEWAY, ipBytes(gateway)));
  if (source) parts.push(bytes(RTA.PREFSRC, ipBytes(source)));
  return Buffer.concat(parts);
}
