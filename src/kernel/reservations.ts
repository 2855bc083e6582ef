import koffi from "koffi";
import { readFileSync } from "node:fs";
import { getSystemErrorName } from "node:util";
import { ConflictError, KernelError } from "../errors.ts";
import { bracketed, ipBytes, parseIp } from "../ip.ts";
import { receiveOnlyFrom } from "./socket-filter.ts";
import { setOption } from "./socket-option.ts";
import { portOwner } from "./socket-owner.ts";

/** A port of the host that is kept for a container, for one address. */
export interface HostPort {
  readonly protocol: "tcp" | "udp" | "sctp";
  /** Bare; `0.0.0.0` or `::` for every address of that family. */
  readonly address: string;
  /** 0: any of the ephemeral range (ip_local_port_range, ip(7)). */
  readonly port: number;
}

const AF = { 4: 2, 6: 10 } as const;
const SOCKET = { tcp: [1, 6], udp: [2, 17], sctp: [1, 132] } as const;
const SOCK_CLOEXEC = 0x80000;

/** Stands for the socket where the kernel has none of that protocol. */
const NO_SOCKET = -1;

interface Held extends HostPort {
  readonly owner: string;
  readonly fd: number;
  /** It is the owner's, but a process has it. */
  readonly lost: boolean;
}

/**
 * Host ports that are taken for containers, each by a bound socket: no other process can have it, and a port
 * that a process has cannot be published. Packets for it are translated before they get there; one that is not, since
 * somebody has just flushed the rules, is dropped by the socket, so that its sender tries again. A relay may have it
 * receive some (see relay.ts).
 * The kernel closes the sockets when the daemon ends, however it ends.
 */
export class Reservations {
  readonly #libc = koffi.load("libc.so.6");
  readonly #socket = this.#libc.func("int socket(int, int, int)");
  readonly #bind = this.#libc.func("int bind(int, const void *, uint32)");
  readonly #listen = this.#libc.func("int listen(int, int)");
  readonly #name = this.#libc.func("int getsockname(int, _Out_ uint8_t *, _Inout_ uint32 *)");
  readonly #close = this.#libc.func("int close(int)");
  readonly #held = new Map<string, Held>();

  /**
   * Takes a port. Taking what the same owner has already is success.
   *
   * @param owner names what it is for in another's refusal: `endpoint 1f2e…`
   * @param search for the process that has it, if one does: for that all of them are looked at, which takes milliseconds
   * @returns the port's number and whether it was free until now
   * @throws {ConflictError} that names address, port and who has it
   */
  take(owner: string, wanted: HostPort, search = true): { port: number; taken: boolean } {
    const held = this.#held.get(keyOf(wanted));
    if (held && held.owner !== owner) throw this.#refusal(wanted, "EADDRINUSE", search);
    if (held && !held.lost) return { port: held.port, taken: false };
    const { fd, port } = this.#open(wanted, search);
    this.#held.set(keyOf({ ...wanted, port }), { ...wanted, port, owner, fd, lost: false });
    return { port, taken: true };
  }

  /**
   * Takes a port that is the owner's by its record. If some process has it now, it is still refused to others.
   *
   * @returns whether it had to be taken
   * @throws {ConflictError} as {@link take} does
   */
  retake(owner: string, port: HostPort): boolean {
    try {
      return this.take(owner, port).taken;
    } catch (error) {
      if (!this.#held.has(keyOf(port)))
        this.#held.set(keyOf(port), { ...port, owner, fd: NO_SOCKET, lost: true });
      throw error;
    }
  }

  /** The socket that keeps a port; undefined where nobody has it, or the kernel has no such sockets. */
  socketOf(port: HostPort): number | undefined {
    const fd = this.#held.get(keyOf(port))?.fd;
    return fd === NO_SOCKET ? undefined : fd;
  }

  /** Gives a port back; not having it is success. */
  release(owner: string, port: HostPort): void {
    const held = this.#held.get(keyOf(port));
    if (held?.owner !== owner) return;
    if (held.fd !== NO_SOCKET) this.#close(held.fd);
    this.#held.delete(keyOf(port));
  }

  /** Gives every port back. */
  close(): void {
    for (const { fd } of this.#held.values()) if (fd !== NO_SOCKET) this.#close(fd);
    this.#held.clear();
  }

  #open(wanted: HostPort, search: boolean): { fd: number; port: number } {
    const { family } = parseIp(wanted.address);
    const [type, number] = SOCKET[wanted.protocol];
    const fd = this.#socket(AF[family], type | SOCK_CLOEXEC, number) as number;
    if (fd < 0) {
      if (wanted.protocol === "sctp") return { fd: NO_SOCKET, port: this.#withoutSocket(wanted) };
      throw new KernelError(`socket ${wanted.protocol}`, errno());
    }
    try {
      // A connection in TIME_WAIT must not keep the port; a listener still does.
      if (wanted.protocol !== "udp") setOption(fd, "SO_REUSEADDR", 1);
      if (family === 6) setOption(fd, "IPV6_V6ONLY", 1);
      receiveOnlyFrom(fd, family, []);
      const address = socketAddress(wanted);
      const bound = this.#bind(fd, address, address.length) === 0;
      if (!bound || (wanted.protocol !== "udp" && this.#listen(fd, 1) !== 0))
        throw this.#refusal(wanted, errno(), search);
      return { fd, port: wanted.port || this.#portOf(fd) };
    } catch (error) {
      this.#close(fd);
      throw error;
    }
  }

  #portOf(fd: number): number {
    const address = Buffer.alloc(28);
    this.#name(fd, address, [address.length]);
    return address.readUInt16BE(2);
  }

  /** Without SCTP in the kernel no process can have the port, but another container can. */
  #withoutSocket(wanted: HostPort): number {
    const others = [...this.#held.values()].filter(
      ({ protocol, address }) => protocol === wanted.protocol && overlap(address, wanted.address),
    );
    const isFree = (port: number) => !others.some((other) => other.port === port);
    if (wanted.port !== 0) {
      if (isFree(wanted.port)) return wanted.port;
      throw this.#refusal(wanted, "EADDRINUSE", false);
    }
    const [first = 0, last = 0] = readFileSync("/proc/sys/net/ipv4/ip_local_port_range", "utf8")
      .split(/\s+/)
      .map(Number);
    for (let port = first; port <= last; port++) if (isFree(port)) return port;
    throw this.#refusal(wanted, "EADDRINUSE", false);
  }

  #refusal({ protocol, address, port }: HostPort, why: string, search: boolean): Error {
    const what = `${bracketed(address)}:${port}/${protocol}`;
    if (why === "EADDRNOTAVAIL")
      return new ConflictError(`cannot publish ${what}: ${address} is not an address of this host`);
    if (why !== "EADDRINUSE") return new KernelError(`bind ${what}`, why);
    const own = [...this.#held.values()].find(
      (held) => held.protocol === protocol && held.port === port && overlap(held.address, address),
    );
    // No process shows its SCTP sockets.
    const find = () =>
      search && protocol !== "sctp" ? portOwner(protocol, port, parseIp(address).family) : undefined;
    const holder = own?.owner ?? find() ?? "another process";
    return new ConflictError(`cannot publish ${what}: the port is taken by ${holder}`);
  }
}

function keyOf({ protocol, address, port }: HostPort): string {
  return `${protocol} ${address} ${port}`;
}

/** Whether two bare addresses, one of which may mean all of its family, can be asked for at once. */
function overlap(a: string, b: string): boolean {
  if (a.includes(":") !== b.includes(":")) return false;
  return a === b || [a, b].some((address) => address === "0.0.0.0" || address === "::");
}

/** struct sockaddr_in or sockaddr_in6 (ip(7), ipv6(7)). */
function socketAddress({ address, port }: HostPort): Buffer {
  const { family } = parseIp(address);
  const out = Buffer.alloc(family === 4 ? 16 : 28);
  out.writeUInt16LE(AF[family], 0);
  out.writeUInt16BE(port, 2);
  ipBytes(address).copy(out, family === 4 ? 4 : 8);
  return out;
}

function errno(): string {
  return getSystemErrorName(-koffi.errno());
}
