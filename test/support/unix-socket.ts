import koffi from "koffi";
import { getSystemErrorName } from "node:util";

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SUN_PATH_SIZE = 108;

/**
 * A listening unix socket that nobody accepts on, as a service manager makes one for a daemon that is not there yet.
 *
 * @returns its descriptor, to be handed to a process that is started
 */
export function listeningSocket(path: string): number {
  const libc = koffi.load("libc.so.6");
  const socket = libc.func("int socket(int, int, int)") as (...args: number[]) => number;
  const bind = libc.func("int bind(int, const void *, uint32)") as (
    fd: number,
    at: Buffer,
    size: number,
  ) => number;
  const listen = libc.func("int listen(int, int)") as (...args: number[]) => number;
  // struct sockaddr_un (unix(7)).
  const address = Buffer.alloc(2 + SUN_PATH_SIZE);
  address.writeUInt16LE(AF_UNIX, 0);
  address.write(path, 2);
  const fd = socket(AF_UNIX, SOCK_STREAM, 0);
  if (fd < 0 || bind(fd, address, address.length) < 0 || listen(fd, 16) < 0)
    throw new Error(`listen on ${path}: ${getSystemErrorName(-koffi.errno())}`);
  return fd;
}
