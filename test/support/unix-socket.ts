import { AF_UNIX, SOCK, bind, failure, listen, socket, unixAddress } from "../../src/kernel/libc.ts";

/**
 * A listening unix socket that nobody accepts on, as a service manager makes one for a daemon that is not there yet.
 *
 * @param backlog how many may wait there, and one more (listen(2))
 * @returns its descriptor, which may be handed to a process that is started
 */
export function listeningSocket(path: string, backlog = 16): number {
  const fd = boundSocket(path, SOCK.STREAM);
  if (listen(fd, backlog) < 0) throw failure(`listen on ${path}`);
  return fd;
}

/** A unix socket of that path and of a type of {@link SOCK}; its descriptor. */
export function boundSocket(path: string, type: number): number {
  const fd = socket(AF_UNIX, type, 0);
  const address = unixAddress(path);
  if (fd < 0 || bind(fd, address, address.length) < 0) throw failure(`bind ${path}`);
  return fd;
}
