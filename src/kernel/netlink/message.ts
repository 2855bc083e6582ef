import { formatMac } from "../../mac.ts";

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

/** No payload. */
export const NOTHING = Buffer.alloc(0);

/**
 * The attributes of a message or of a nest, by type; the last one wins where one repeats. A link has sixty, of which a
 * third is asked for: until then only where each of them is has been looked at.
 */
export class Attributes {
  readonly #buffer: Buffer;
  /** Offset of each value, by type. */
  readonly #starts: number[] = [];

  /** @param offset of the first one: behind the message's own header */
  constructor(buffer: Buffer, offset = 0) {
    this.#buffer = buffer;
    for (let at = offset; at + HEADER <= buffer.length;) {
      const size = buffer.readUInt16LE(at);
      if (size < HEADER) break;
      this.#starts[buffer.readUInt16LE(at + 2) & NLA_TYPE_MASK] = at + HEADER;
      at += (size + 3) & ~3;
    }
  }

  /** Whether it is there. */
  has(type: number): boolean {
    return this.#starts[type] !== undefined;
  }

  /** Its raw bytes; undefined where it is absent. */
  get(type: number): Buffer | undefined {
    const start = this.#starts[type];
    return start === undefined ? undefined : this.#buffer.subarray(start, this.#end(start));
  }

  /** The attributes that it is made of; none where it is absent. */
  nest(type: number): Attributes {
    return new Attributes(this.get(type) ?? NOTHING);
  }

  /** Its first byte; undefined where it is absent or empty. */
  u8(type: number): number | undefined {
    const start = this.#starts[type];
    return start !== undefined && start < this.#end(start) ? this.#buffer[start] : undefined;
  }

  /** Its 32-bit number in host byte order; 0 where it is absent. */
  u32(type: number): number {
    const start = this.#starts[type];
    return start !== undefined && start + 4 <= this.#end(start) ? this.#buffer.readUInt32LE(start) : 0;
  }

  /** Its text, which ends in NUL; empty where it is absent. */
  text(type: number): string {
    const start = this.#starts[type];
    if (start === undefined) return "";
    const [end, nul] = [this.#end(start), this.#buffer.indexOf(0, start)];
    return this.#buffer.toString("utf8", start, nul < 0 ? end : Math.min(nul, end));
  }

  /** Its MAC in the usual form, `02:42:…`; empty where it is absent. */
  mac(type: number): string {
    return formatMac(this.get(type) ?? NOTHING);
  }

  /** Where a value ends, by its header before it. */
  #end(start: number): number {
    const end = start - HEADER + this.#buffer.readUInt16LE(start - HEADER);
    return Math.min(end, this.#buffer.length);
  }
}
