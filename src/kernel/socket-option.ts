import koffi from "koffi";
import { failure, getsockopt, setsockopt } from "./libc.ts";

/** Level and number of options whose value is a number (socket(7), ipv6(7), netlink(7)). */
const OPTIONS = {
  SO_REUSEADDR: [1, 2],
  SO_RCVBUFFORCE: [1, 33],
  IPV6_V6ONLY: [41, 26],
  NETLINK_NO_ENOBUFS: [270, 5],
} as const;
const SO_ATTACH_FILTER = [1, 26] as const;
/** What a socket's memory is used for, in numbers of 32 bits, and which of them is not memory (linux/sock_diag.h). */
const SO_MEMINFO = [1, 55] as const;
const SK_MEMINFO_VARS = 9;
const SK_MEMINFO_DROPS = 8;

/** struct sock_fprog (linux/filter.h). */
const Program = koffi.struct({ length: "uint16", filter: "void *" });
/** Bytes of struct sock_filter. */
const INSTRUCTION = 8;

/**
 * Sets an option of a socket.
 *
 * @throws {KernelError} if the kernel does not take it
 */
export function setOption(fd: number, name: keyof typeof OPTIONS, value: number): void {
  const buffer = Buffer.alloc(4);
  buffer.writeInt32LE(value);
  const [level, option] = OPTIONS[name];
  if (setsockopt(fd, level, option, buffer, buffer.length) !== 0) throw failure(`setsockopt ${name}`);
}

/**
 * Has a socket receive only what a program of classic BPF takes.
 *
 * @throws {KernelError} if the kernel does not take it
 */
export function attachFilter(fd: number, filter: Buffer): void {
  const program = koffi.as({ length: filter.length / INSTRUCTION, filter }, koffi.pointer(Program));
  if (setsockopt(fd, ...SO_ATTACH_FILTER, program, koffi.sizeof(Program)) !== 0)
    throw failure("setsockopt SO_ATTACH_FILTER");
}

/**
 * How many packets the kernel has dropped since the socket was made, since its buffer was full or its filter did not
 * take them; after 2³² it begins anew.
 *
 * @throws {KernelError} if the kernel does not tell (before Linux 4.12)
 */
export function droppedBy(fd: number): number {
  const buffer = Buffer.alloc(4 * SK_MEMINFO_VARS);
  if (getsockopt(fd, ...SO_MEMINFO, buffer, [buffer.length]) !== 0) throw failure("getsockopt SO_MEMINFO");
  return buffer.readUInt32LE(4 * SK_MEMINFO_DROPS);
}
