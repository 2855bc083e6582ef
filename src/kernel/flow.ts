import { type Family, type RawIp, rawIpOf } from "../ip.ts";
import { PROTOCOL_NUMBERS, type Protocol } from "../model.ts";
import { AF } from "./libc.ts";
import { Attributes, NOTHING, bytes, nest, u32, u8 } from "./netlink/message.ts";
import { NFGENMSG, nfgenmsg } from "./netlink/nfnetlink.ts";

/** linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h. */
export const CT_GET = (1 << 8) | 1;
export const CT_DELETE = (1 << 8) | 2;
const CTA = {
  TUPLE_ORIG: 1,
  TUPLE_REPLY: 2,
  STATUS: 3,
  ID: 12,
  ZONE: 18,
  FILTER: 25,
  STATUS_MASK: 26,
} as const;
const CTA_TUPLE = { IP: 1, PROTO: 2 } as const;
const CTA_IP = { 4: { SRC: 1, DST: 2 }, 6: { SRC: 3, DST: 4 } } as const;
const CTA_PROTO = { NUM: 1, DST_PORT: 3 } as const;
const CTA_FILTER_ORIG_FLAGS = 1;
/** Which fields of a flow a filter compares (net/netfilter/nf_internals.h). */
const COMPARE = { PROTO_NUM: 8, DST_PORT: 32 } as const;
/** IPS_SEEN_REPLY (linux/netfilter/nf_conntrack_common.h), in network byte order as nfnetlink has all numbers. */
const SEEN_REPLY = 2 << 24;
/**
 * Ports that are asked for one by one: each takes the kernel some 10 ms, and all of UDP may be hundreds of thousands of
 * flows.
 */
const PORTS_LISTED_SINGLY = 8;

/** Where clients send to. */
export interface ServedPort {
  readonly protocol: Protocol;
  /** Bare; `0.0.0.0` or `::` for every address of the host. */
  readonly address: string;
  readonly port: number;
}

/** A flow as the kernel lists it. */
export interface Flow {
  readonly protocol: number;
  /** Where its first packet came from. */
  readonly source: RawIp;
  /** Where that was sent to. */
  readonly address: RawIp;
  readonly port: number;
  /** Those who speak in it. */
  readonly ends: readonly RawIp[];
  readonly answered: boolean;
  readonly translated: boolean;
  readonly message: Buffer;
}

/** Asks for the flows to ports; of UDP for others as well, where there are too many to ask for each. */
export function listsOf(family: Family, ports: readonly ServedPort[]): Buffer[] {
  const numbersOf = (wanted: Protocol) => [
    ...new Set(ports.flatMap(({ protocol, port }) => (protocol === wanted ? port : []))),
  ];
  const udp = numbersOf("udp");
  const isMuch = udp.length > PORTS_LISTED_SINGLY;
  return [
    ...(isMuch ? [listOf(family, "udp")] : udp.map((port) => listOf(family, "udp", port))),
    ...(["tcp", "sctp"] as const)
      .filter((protocol) => numbersOf(protocol).length > 0)
      .map((protocol) => Buffer.concat([listOf(family, protocol), UNANSWERED])),
  ];
}

/** Asks for a family's flows of a protocol, to one port or to all. Before Linux 5.8 the kernel lists all there are. */
function listOf(family: Family, protocol: Protocol, port?: number): Buffer {
  const number = Buffer.alloc(2);
  number.writeUInt16BE(port ?? 0);
  const proto = nest(
    CTA_TUPLE.PROTO,
    u8(CTA_PROTO.NUM, PROTOCOL_NUMBERS[protocol]),
    bytes(CTA_PROTO.DST_PORT, number),
  );
  const compare = COMPARE.PROTO_NUM | (port === undefined ? 0 : COMPARE.DST_PORT);
  return Buffer.concat([
    nfgenmsg(family),
    nest(CTA.TUPLE_ORIG, proto),
    nest(CTA.FILTER, u32(CTA_FILTER_ORIG_FLAGS, compare)),
  ]);
}

/** Leaves out of a list what has been answered; before Linux 5.15 nothing. */
const UNANSWERED = Buffer.concat([u32(CTA.STATUS, 0), u32(CTA.STATUS_MASK, SEEN_REPLY)]);

/** The flow that a message is about; undefined for what has no addresses. */
export function parseFlow(message: Buffer): Flow | undefined {
  const found = new Attributes(message, NFGENMSG);
  const family = message[0] === AF[6] ? 6 : 4;
  const original = found.nest(CTA.TUPLE_ORIG);
  const proto = original.nest(CTA_TUPLE.PROTO);
  const [source, address] = addressesOf(original, family);
  const [replySource, replyAddress] = addressesOf(found.nest(CTA.TUPLE_REPLY), family);
  if (source === undefined || address === undefined || replySource === undefined) return undefined;
  return {
    protocol: proto.u8(CTA_PROTO.NUM) ?? 0,
    source,
    address,
    port: proto.get(CTA_PROTO.DST_PORT)?.readUInt16BE() ?? 0,
    ends: [source, address, replySource],
    answered: (found.u32(CTA.STATUS) & SEEN_REPLY) !== 0,
    translated: replySource !== address || replyAddress !== source,
    message,
  };
}

/** Source and destination of a tuple. */
function addressesOf(tuple: Attributes, family: Family): (RawIp | undefined)[] {
  const ip = tuple.nest(CTA_TUPLE.IP);
  return [CTA_IP[family].SRC, CTA_IP[family].DST].map((type) => {
    const address = ip.get(type);
    return address && rawIpOf(address);
  });
}

/** What tells the flow that a message is about from all others. */
export function nameOf(message: Buffer): Buffer {
  const found = new Attributes(message, NFGENMSG);
  return Buffer.concat([
    message.subarray(0, NFGENMSG),
    nest(CTA.TUPLE_ORIG, found.get(CTA.TUPLE_ORIG) ?? NOTHING),
    ...[CTA.ID, CTA.ZONE].flatMap((type) => {
      const value = found.get(type);
      return value ? bytes(type, value) : [];
    }),
  ]);
}
