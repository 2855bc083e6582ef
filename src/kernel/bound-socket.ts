import { isErrno } from "../errors.ts";
import { type Family, bracketed, ipBytes, parseIp } from "../ip.ts";
import { PROTOCOL_NUMBERS, type Protocol } from "../model.ts";
import { AF, SOCK, bind, close, failure, getsockname, listen, socket } from "./libc.ts";
import { type Admitted, receiveOnly } from "./socket-filter.ts";
import { setOption } from "./socket-option.ts";

/** A port of the host, at one address. */
export interface HostPort {
  readonly protocol: Protocol;
  /** Bare; `0.0.0.0` or `::` for every address of that family. */
  readonly address: string;
  /** 0: any of the ephemeral range (ip_local_port_range, ip(7)). */
  readonly port: number;
}

/** Type of each protocol's sockets. */
const TYPES = { tcp: SOCK.STREAM, udp: SOCK.DGRAM, sctp: SOCK.STREAM } as const;

/**
 * A socket that has the port.
 *
 * @param admitted all that it receives
 * @param shared other sockets of this process, and of others of this user, may have the port as well
 * @returns its descriptor; undefined if the kernel has none of SCTP
 * @throws {KernelError} EADDRINUSE, EADDRNOTAVAIL, …
 */
export function boundSocket(
  wanted: HostPort,
  admitted: readonly Admitted[],
  shared = false,
): number | undefined {
  const { protocol, address, port } = wanted;
  const { family } = parseIp(address);
  const fd = socket(AF[family], TYPES[protocol], PROTOCOL_NUMBERS[protocol]);
  if (fd < 0) {
    const error = failure(`socket ${protocol}`);
    if (protocol === "sctp" && isErrno(error, "EPROTONOSUPPORT", "ESOCKTNOSUPPORT")) return undefined;
    throw error;
  }
  try {
    // A connection in TIME_WAIT must not keep the port; a listener still does.
    if (protocol !== "udp" || shared) setOption(fd, "SO_REUSEADDR", 1);
    if (family === 6) setOption(fd, "IPV6_V6ONLY", 1);
    receiveOnly(fd, family, admitted);
    const name = socketAddress(wanted, family);
    if (bind(fd, name, name.length) !== 0 || (protocol !== "udp" && listen(fd, 1) !== 0))
      throw failure(`bind ${bracketed(address)}:${port}/${protocol}`);
    return fd;
  } catch (error) {
    close(fd);
    throw error;
  }
}

/** The port that a socket is bound to. */
export function portOf(fd: number): number {
  const address = Buffer.alloc(28);
  getsockname(fd, address, [address.length]);
  return address.readUInt16BE(2);
}

/** struct sockaddr_in or sockaddr_in6 (ip(7), ipv6(7)). */
function socketAddress({ address, port }: HostPort, family: Family): Buffer {
  const out = Buffer.alloc(family === 4 ? 16 : 28);
  out.writeUInt16LE(AF[family], 0);
  out.writeUInt16BE(port, 2);
  ipBytes(address).copy(out, family === 4 ? 4 : 8);
  return out;
}
