import { Protocol } from "netlink";
import { getSystemErrorName } from "node:util";
import { KernelError } from "../errors.ts";
import { Limit } from "../lock.ts";
import { openSocket } from "./rtnetlink.ts";
import { bytes, nest, u32, u8 } from "./netlink-message.ts";

/** linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h. */
const CT_DELETE = (1 << 8) | 2;
const CTA = { TUPLE_ORIG: 1, FILTER: 25 } as const;
const CTA_TUPLE_PROTO = 2;
const CTA_PROTO = { NUM: 1, DST_PORT: 3 } as const;
const CTA_FILTER_ORIG_FLAGS = 1;
/** Which fields of a connection a filter compares (net/netfilter/nf_internals.h). */
const COMPARE = { PROTO_NUM: 8, DST_PORT: 32 } as const;
const UDP = 17;
/** There was none, or the kernel cannot filter. */
const HARMLESS = ["ENOENT", "EOPNOTSUPP", "EINVAL"];
const AF = { 4: 2, 6: 10 } as const;
const NLMSG_ERROR = 2;
/** Answers that may wait to be read; each takes some 800 bytes of the socket's buffer. */
const IN_FLIGHT = 16;

/** The UDP connections that were made to a port of any address, whoever answers them. */
export interface UdpPort {
  readonly family: 4 | 6;
  readonly port: number;
}

/**
 * Makes the kernel forget connections, so that their next packet is looked at anew: without this a client that
 * never stops sending UDP stays with the container that had the port before.
 * The kernel picks them out itself (Linux 5.8); an older one refuses, and the connections run out by themselves.
 */
export class Conntrack {
  readonly #socket = openSocket(Protocol.NETFILTER);
  readonly #inFlight = new Limit(IN_FLIGHT);

  /** Forgets the connections; there being none is success. */
  async forget(port: UdpPort): Promise<void> {
    const [answers] = await this.#inFlight.run(() =>
      this.#socket.request(CT_DELETE, filter(port), { checkError: false }),
    );
    const [answer] = answers;
    const errno = answer?.type === NLMSG_ERROR ? answer.data.readInt32LE(0) : 0;
    if (errno === 0 || HARMLESS.includes(getSystemErrorName(errno))) return;
    throw new KernelError("conntrack -D", getSystemErrorName(errno));
  }

  close(): void {
    this.#socket.close();
  }
}

/**
 * A filter by protocol and port only: comparing IPv6 addresses is the wrong way round in the kernel (it picks
 * those that differ; seen on 6.18).
 */
function filter({ family, port: number }: UdpPort): Buffer {
  // struct nfgenmsg: family, version, resource.
  const header = Buffer.from([AF[family], 0, 0, 0]);
  const port = Buffer.alloc(2);
  port.writeUInt16BE(number);
  const proto = nest(CTA_TUPLE_PROTO, u8(CTA_PROTO.NUM, UDP), bytes(CTA_PROTO.DST_PORT, port));
  const compare = u32(CTA_FILTER_ORIG_FLAGS, COMPARE.PROTO_NUM | COMPARE.DST_PORT);
  return Buffer.concat([header, nest(CTA.TUPLE_ORIG, proto), nest(CTA.FILTER, compare)]);
}
