import { AF_UNIX, SOCK, close, failure, getsockname, sendTo, socket, unixAddress } from "./libc.ts";

/** First descriptor that systemd passes (sd_listen_fds(3)). */
const SD_LISTEN_FDS_START = 3;
/** Bytes of struct sockaddr_un before and with its path (unix(7)). */
const SOCKADDR_UN = { path: 2, all: 110 };

/** The socket that the service manager listens on for this process, and its path; undefined where it does not. */
export function passedSocket(): { readonly fd: number; readonly path: string } | undefined {
  const { LISTEN_PID, LISTEN_FDS } = process.env;
  if (LISTEN_PID !== String(process.pid) || !(Number(LISTEN_FDS) > 0)) return undefined;
  const name = Buffer.alloc(SOCKADDR_UN.all);
  if (getsockname(SD_LISTEN_FDS_START, name, [name.length]) !== 0)
    throw failure("socket of the service manager");
  const path = name.toString("utf8", SOCKADDR_UN.path).replace(/\0.*$/s, "");
  return { fd: SD_LISTEN_FDS_START, path };
}

/**
 * Tells the service manager that what was started can be used (sd_notify(3)): until then it starts nothing that is
 * ordered behind. Where none waits for it, nothing is done.
 *
 * @throws {KernelError} if it cannot be told
 */
export function tellReady(): void {
  // `@` stands for the NUL that begins an abstract one (unix(7)).
  const address = process.env["NOTIFY_SOCKET"];
  if (!address) return;
  const fd = socket(AF_UNIX, SOCK.DGRAM, 0);
  if (fd < 0) throw failure("socket AF_UNIX");
  try {
    const name = unixAddress(address);
    const text = Buffer.from("READY=1");
    if (sendTo(fd, text, text.length, 0, name, name.length) < 0) throw failure(`notify ${address}`);
  } finally {
    close(fd);
  }
}
