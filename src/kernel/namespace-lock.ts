import { TsnetError } from "../errors.ts";
import { AF_UNIX, SOCK, bind, close, failure, socket, unixAddress } from "./libc.ts";
import { unixSocketOwner } from "./socket-owner.ts";

/** A name of the namespace's own, behind which is no file that a process could leave behind (unix(7)). */
const NAME = "@tsnet";

/**
 * Takes the network namespace for this process, until it ends however it ends: a second daemon, with other records,
 * would delete what the first has made.
 *
 * @returns gives it back
 * @throws {TsnetError} that names the process that has it
 */
export function takeNamespace(): () => void {
  const fd = socket(AF_UNIX, SOCK.DGRAM, 0);
  if (fd < 0) throw failure("socket AF_UNIX");
  const address = unixAddress(NAME);
  if (bind(fd, address, address.length) !== 0) {
    const error = failure(`bind ${NAME}`);
    close(fd);
    if (error.errno !== "EADDRINUSE") throw error;
    const holder = unixSocketOwner(NAME);
    // Anybody can have a name; what changes the host's network is root's.
    if (holder?.isRoots === false) return () => undefined;
    throw new TsnetError(
      "busy",
      `another tsnet daemon has this host's network, ${holder?.what ?? "in a container"}; stop that first`,
    );
  }
  return () => {
    close(fd);
  };
}
