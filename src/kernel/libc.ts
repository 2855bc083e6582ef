import koffi from "koffi";
import { getSystemErrorName } from "node:util";
import { KernelError } from "../errors.ts";

/** The C library, for system calls that Node has no function for. */
export const libc = koffi.load("libc.so.6");

/** socket(2): a descriptor, or a negative number where {@link failure} says why. */
export const socket = libc.func("int socket(int, int, int)") as (
  domain: number,
  type: number,
  protocol: number,
) => number;

/** close(2). */
export const close = libc.func("int close(int)") as (fd: number) => number;

/** getsockname(2). */
export const getsockname = libc.func("int getsockname(int, _Out_ uint8_t *, _Inout_ uint32 *)") as (
  fd: number,
  name: Buffer,
  size: [number],
) => number;

/** Why the call that was made last on this thread has failed. */
export function failure(command: string): KernelError {
  return new KernelError(command, getSystemErrorName(-koffi.errno()));
}
