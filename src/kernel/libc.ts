import { getSystemErrorName } from "node:util";
import koffi from "koffi";
import { KernelError } from "../errors.ts";

/** The C library, for system calls that Node has no function for. */
const libc = koffi.load("libc.so.6");

/** Numbers of the address families (linux/socket.h); those of netfilter are the same (NFPROTO, linux/netfilter.h). */
export const AF = { 4: 2, 6: 10 } as const;

/** Sockets of this machine (unix(7)). */
export const AF_UNIX = 1;

/** struct sockaddr_un (unix(7)). A `@` stands for the NUL that begins a name which is no path. */
export function unixAddress(name: string): Buffer {
  return Buffer.concat([Buffer.from([AF_UNIX, 0]), Buffer.from(name.replace(/^@/, "\0"))]);
}

/** Types of sockets (socket(2)). */
export const SOCK = { STREAM: 1, DGRAM: 2, RAW: 3 } as const;
const SOCK_CLOEXEC = 0x80000;

const openSocket = libc.func("int socket(int, int, int)") as (
  domain: number,
  type: number,
  protocol: number,
) => number;

/**
 * socket(2), of which the programs that the daemon starts get nothing.
 *
 * @returns a descriptor, or a negative number where {@link failure} says why
 */
export function socket(domain: number, type: number, protocol: number): number {
  return openSocket(domain, type | SOCK_CLOEXEC, protocol);
}

/** bind(2). */
export const bind = libc.func("int bind(int, const void *, uint32)") as (
  fd: number,
  address: Buffer,
  size: number,
) => number;

/** listen(2). */
export const listen = libc.func("int listen(int, int)") as (fd: number, backlog: number) => number;

/** send(2), which may be called on another thread (koffi's `async`). */
export const send = libc.func("int64 send(int, const void *, uint64, int)");

/** recv(2), likewise. */
export const receive = libc.func("int64 recv(int, _Out_ uint8_t *, uint64, int)");

/** close(2). */
export const close = libc.func("int close(int)") as (fd: number) => number;

const control = libc.func("int fcntl(int, int, ...)") as (
  fd: number,
  operation: number,
  type: "int",
  value: number,
) => number;
const F_DUPFD_CLOEXEC = 1030;

/**
 * A second descriptor of the same file, of which the programs that the daemon starts get nothing (F_DUPFD_CLOEXEC,
 * fcntl(2)).
 *
 * @returns a negative number where {@link failure} says why there is none
 */
export function duplicate(fd: number): number {
  return control(fd, F_DUPFD_CLOEXEC, "int", 0);
}

/** flock(2). */
export const flock = libc.func("int flock(int, int)") as (fd: number, operation: number) => number;

/** setns(2). */
export const setns = libc.func("int setns(int, int)") as (fd: number, type: number) => number;

/** getsockname(2). */
export const getsockname = libc.func("int getsockname(int, _Out_ uint8_t *, _Inout_ uint32 *)") as (
  fd: number,
  name: Buffer,
  size: [number],
) => number;

/** setsockopt(2). The value is a buffer, or what {@link koffi.as} makes of a struct. */
export const setsockopt = libc.func("int setsockopt(int, int, int, const void *, uint32)") as (
  fd: number,
  level: number,
  option: number,
  value: unknown,
  size: number,
) => number;

/** getsockopt(2): what is asked for may be named in the value, as netfilter's options have it. */
export const getsockopt = libc.func("int getsockopt(int, int, int, _Inout_ uint8_t *, _Inout_ uint32 *)") as (
  fd: number,
  level: number,
  option: number,
  value: Buffer,
  size: [number],
) => number;

/** sendto(2): bytes sent, or a negative number. */
export const sendTo = libc.func("int64 sendto(int, const void *, uint64, int, const void *, uint32)") as (
  fd: number,
  data: Buffer,
  size: number,
  flags: number,
  to: Buffer,
  toSize: number,
) => number;

/** Why the call that was made last on this thread has failed. */
export function failure(command: string): KernelError {
  return new KernelError(command, getSystemErrorName(-koffi.errno()));
}
