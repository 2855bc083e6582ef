import { type Family, ipBytes, parseCidr } from "../ip.ts";
import { attachFilter, detachFilter } from "./socket-option.ts";

/** Operations of classic BPF (linux/bpf_common.h). */
const LOAD_WORD = 0x20;
const AND = 0x54;
const JUMP_IF_EQUAL = 0x15;
const RETURN = 0x06;
/** Offsets from here on are counted from the IP header (linux/filter.h). */
const SKF_NET_OFF = -0x100000;
/** Where a header has its source address (RFC 791, section 3.1; RFC 8200, section 3). */
const SOURCE = { 4: 12, 6: 8 } as const;
const ALL_BYTES = 0xffff_ffff;

/**
 * Has a socket receive only what comes from these subnets, in place of what was said before (socket(7),
 * SO_ATTACH_FILTER).
 *
 * @param subnets with prefix length, of the socket's family; without any, nothing is received
 * @throws {KernelError} if the kernel does not take it
 */
export function receiveOnlyFrom(fd: number, family: Family, subnets: readonly string[]): void {
  // A filter is a program that the kernel compiles.
  if (subnets.some((subnet) => parseCidr(subnet).length === 0)) detachFilter(fd);
  else attachFilter(fd, Buffer.concat([...subnets.flatMap((subnet) => accept(family, subnet)), DROP]));
}

/** Takes what comes from a subnet; anything else goes on behind it. */
function accept(family: Family, subnet: string): Buffer[] {
  const { address, length } = parseCidr(subnet);
  const bytes = ipBytes(address);
  const words = Array.from({ length: Math.ceil(length / 32) }, (_, index) => {
    const mask = (ALL_BYTES << Math.max(0, 32 * (index + 1) - length)) >>> 0;
    return { offset: SOURCE[family] + 4 * index, mask, value: (bytes.readUInt32BE(4 * index) & mask) >>> 0 };
  });
  return words
    .flatMap(({ offset, mask, value }, index) => [
      instruction(LOAD_WORD, SKF_NET_OFF + offset),
      instruction(AND, mask),
      // Three instructions for each word that is left, and the one that takes it.
      instruction(JUMP_IF_EQUAL, value, 3 * (words.length - 1 - index) + 1),
    ])
    .concat(instruction(RETURN, ALL_BYTES));
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
