import { formatMac } from "../mac.ts";

/**
 * The netlink wire: attributes are length (16 bit), type (16 bit), value, padded to 4 bytes, in host
 * byte order (netlink(7), linux/netlink.h). tsnet runs on little-endian machines only, as its
 * netlink binding does (x64, ia32, arm, arm64).
 */

const MESSAGE_HEADER = 16;
const HEADER = 4;
const NLM_F_DUMP_INTR = 0x10;
const NLA_F_NESTED = 0x8000;
const NLA_TYPE_MASK = 0x3fff;

/** What is asked of the kernel, or what it says. */
export interface NetlinkMessage {
  readonly type: number;
  /** Of the request that it answers. */
  readonly sequence: number;
  /** What is listed has changed since the list began, so something may be missing (NLM_F_DUMP_INTR). */
  readonly torn: boolean;
  readonly data: Buffer;
}

/** A message (struct nlmsghdr: length, type, flags, sequence, port). */
export function netlinkMessage(type: number, flags: number, sequence: number, data: Buffer): Buffer {
  const size = MESSAGE_HEADER + data.length;
  const out = Buffer.alloc((size + 3) & ~3);
  out.writeUInt32LE(size, 0);
  out.writeUInt16LE(type, 4);
  out.writeUInt16LE(flags, 6);
  out.writeUInt32LE(sequence, 8);
  data.copy(out, MESSAGE_HEADER);
  return out;
}

/** The messages in a datagram. */
export function netlinkMessages(datagram: Buffer): NetlinkMessage[] {
  const found: NetlinkMessage[] = [];
  for (let at = 0; at + MESSAGE_HEADER <= datagram.length;) {
    const size = datagram.readUInt32LE(at);
    if (size < MESSAGE_HEADER) break;
    found.push({
      type: datagram.readUInt16LE(at + 4),
      sequence: datagram.readUInt32LE(at + 8),
      torn: (datagram.readUInt16LE(at + 6) & NLM_F_DUMP_INTR) !== 0,
      data: datagram.subarray(at + MESSAGE_HEADER, at + size),
    });
    at += (size + 3) & ~3;
  }
  return found;
}

function attribute(type: number, value: Buffer): Buffer {
  const size = HEADER + value.length;
  const out = Buffer.alloc((size + 3) & ~3);
  out.writeUInt16LE(size, 0);
  out.writeUInt16LE(type, 2);
  value.copy(out, HEADER);
  return out;
}

/** Attribute of raw bytes: an address, a MAC. */
export function bytes(type: number, value: Buffer): Buffer {
  return attribute(type, value);
}

/** Attribute of one byte. */
export function u8(type: number, value: number): Buffer {
  return attribute(type, Buffer.from([value]));
}

/** Attribute of a 16-bit number in host byte order. */
export function u16(type: number, value: number): Buffer {
  const buffer = Buffer.alloc(2);
  buffer.writeUInt16LE(value);
  return attribute(type, buffer);
}

/** Attribute of a 32-bit number in host byte order. */
export function u32(type: number, value: number): Buffer {
  const buffer = Buffer.alloc(4);
  buffer.writeUInt32LE(value >>> 0);
  return attribute(type, buffer);
}

/** Attribute of a string that ends in NUL. */
export function text(type: number, value: string): Buffer {
  return attribute(type, Buffer.from(`${value}\0`));
}

/** Attribute made of attributes. */
export function nest(type: number, ...children: Buffer[]): Buffer {
  return attribute(type | NLA_F_NESTED, Buffer.concat(children));
}

/** The attributes of a message or of a nest, by type; the last one wins where one repeats. */
export function attributes(buffer: Buffer, offset = 0): Map<number, Buffer> {
  const found = new Map<number, Buffer>();
  while (offset + HEADER <= buffer.length) {
    const size = buffer.readUInt16LE(offset);
    if (size < HEADER) break;
    const type = buffer.readUInt16LE(offset + 2) & NLA_TYPE_MASK;
    found.set(type, buffer.subarray(offset + HEADER, offset + size));
    offset += (size + 3) & ~3;
  }
  return found;
}

/** A string attribute's text; empty where it is absent. */
export function readText(buffer: Buffer | undefined): string {
  return buffer?.toString("utf8").replace(/\0.*$/s, "") ?? "";
}

/** A 32-bit attribute's number; 0 where it is absent. */
export function readU32(buffer: Buffer | undefined): number {
  return buffer && buffer.length >= 4 ? buffer.readUInt32LE() : 0;
}

/** A MAC attribute in the usual form, `02:42:…`; empty where it is absent. */
export function readMac(buffer: Buffer | undefined): string {
  return buffer ? formatMac(buffer) : "";
}
