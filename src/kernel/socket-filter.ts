import { type Family, hostSubnet, ipBytes, parseCidr } from "../ip.ts";
import { attachFilter } from "./socket-option.ts";

/** Operations of classic BPF (linux/bpf_common.h). */
const LOAD_WORD = 0x20;
const AND = 0x54;
const JUMP_IF_EQUAL = 0x15;
const RETURN = 0x06;
/** Offsets from here on are counted from the IP header (linux/filter.h). */
const SKF_NET_OFF = -0x100000;
/** Where a header has its addresses (RFC 791, section 3.1; RFC 8200, section 3). */
const SOURCE = { 4: 12, 6: 8 } as const;
const DESTINATION = { 4: 16, 6: 24 } as const;
const ALL_BYTES = 0xffff_ffff;

/** What a socket receives. */
export interface Admitted {
  /** Network address with prefix length. */
  readonly from: string;
  /** Bare. Absent: any address, also those of everybody and of groups. */
  readonly to?: string;
}

/** A word of a header, and what it must be. */
interface Word {
  readonly offset: number;
  readonly mask: number;
  readonly value: number;
}

/**
 * Has a new socket receive only what is admitted (socket(7), SO_ATTACH_FILTER).
 *
 * @param admitted addresses of the socket's family; without any, nothing is received
 * @throws {KernelError} if the kernel does not take it
 */
export function receiveOnly(fd: number, family: Family, admitted: readonly Admitted[]): void {
  // A filter is a program that the kernel compiles.
  if (admitted.some(({ from, to }) => to === undefined && parseCidr(from).length === 0)) return;
  attachFilter(fd, Buffer.concat([...admitted.flatMap((one) => accept(family, one)), DROP]));
}

/** Takes what is admitted; anything else goes on behind it. */
function accept(family: Family, { from, to }: Admitted): Buffer[] {
  const source = words(from, SOURCE[family]);
  const all = to === undefined ? source : [...source, ...words(hostSubnet(to), DESTINATION[family])];
  return all
    .flatMap(({ offset, mask, value }, index) => [
      instruction(LOAD_WORD, SKF_NET_OFF + offset),
      instruction(AND, mask),
      // Three instructions for each word that is left, and the one that takes it.
      instruction(JUMP_IF_EQUAL, value, 3 * (all.length - 1 - index) + 1),
    ])
    .concat(instruction(RETURN, ALL_BYTES));
}

function words(subnet: string, start: number): Word[] {
  const { address, length } = parseCidr(subnet);
  const bytes = ipBytes(address);
  return Array.from({ length: Math.ceil(length / 32) }, (_, index) => {
    const mask = (ALL_BYTES << Math.max(0, 32 * (index + 1) - length)) >>> 0;
    return { offset: start + 4 * index, mask, value: (bytes.readUInt32BE(4 * index) & mask) >>> 0 };
  });
}

/** struct sock_filter (linux/filter.h): code, jump if true, jump if false, operand. */
function instruction(code: number, operand: number, otherwise = 0): Buffer {
  const out = Buffer.alloc(8);
  out.writeUInt16LE(code, 0);
  out.writeUInt8(otherwise, 3);
  out.writeUInt32LE(operand >>> 0, 4);
  return out;
}

const DROP = instruction(RETURN, 0);
