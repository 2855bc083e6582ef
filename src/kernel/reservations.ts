import { readFileSync } from "node:fs";
import { ConflictError, isErrno } from "../errors.ts";
import { bracketed, isLinkLocal, isUnspecified, parseIp } from "../ip.ts";
import { type HostPort, boundSocket, portOf } from "./bound-socket.ts";
import { close } from "./libc.ts";
import type { Admitted } from "./socket-filter.ts";
import { droppedBy } from "./socket-option.ts";
import { portOwner } from "./socket-owner.ts";

/** Stands for the socket where the kernel has none of that protocol. */
const NO_SOCKET = -1;

interface Owned extends HostPort {
  readonly owner: string;
}

interface Held extends Owned {
  readonly fd: number;
}

/**
 * Host ports that are taken for containers, each by a bound socket: no other process can have it, and a port
 * that a process has cannot be published. Packets for it are translated before they get there; one that is not, since
 * its rules are yet to come or somebody has flushed them, is dropped by the socket, so that its sender tries again (see
 * conntrack.ts). A relay may have it receive some (see relay.ts).
 * The kernel closes the sockets when the daemon ends, however it ends.
 */
export class Reservations {
  readonly #held = new Map<string, Held>();
  /** What is somebody's by its record, but a process has it. */
  readonly #lost = new Map<string, Owned>();

  /**
   * Takes a port. Taking what the same owner has already is success.
   *
   * @param owner names what it is for in another's refusal: `endpoint 1f2e…`
   * @param admitted what its socket receives, for a relay
   * @param search for the process that has it, if one does: for that all of them are looked at, which takes
   *   milliseconds
   * @returns the port's number and whether it was free until now
   * @throws {ConflictError} that names address, port and who has it
   */
  take(
    owner: string,
    wanted: HostPort,
    admitted: readonly Admitted[],
    search = true,
  ): { port: number; taken: boolean } {
    const held = this.#held.get(keyOf(wanted));
    if (held?.owner === owner) return { port: held.port, taken: false };
    if (held ?? this.#lostTo(owner, wanted)) throw this.#refusal(owner, wanted, search);
    const { fd, port } = this.#open(owner, wanted, admitted, search);
    const taken = { owner, ...wanted, port };
    // The kernel's choice may be one.
    if (this.#lostTo(owner, taken)) {
      if (fd !== NO_SOCKET) close(fd);
      throw this.#refusal(owner, taken, false);
    }
    this.#held.set(keyOf(taken), { fd, ...taken });
    this.#lost.delete(keyOf(taken));
    return { port, taken: true };
  }

  /**
   * Takes a port that is the owner's by its record. If some process has it now, it is still refused to others.
   *
   * @returns whether it had to be taken
   * @throws {ConflictError} as {@link take} does
   */
  retake(owner: string, port: HostPort, admitted: readonly Admitted[]): boolean {
    try {
      return this.take(owner, port, admitted).taken;
    } catch (error) {
      // Of two that are in each other's way the first one has it back: each kept from the other, neither would.
      if (!this.#held.has(keyOf(port)) && !this.#lostTo(owner, port))
        this.#lost.set(keyOf(port), { owner, ...port });
      throw error;
    }
  }

  /** The socket that keeps a port; undefined where nobody has it, or the kernel has no such sockets. */
  socketOf(port: HostPort): number | undefined {
    const fd = this.#held.get(keyOf(port))?.fd;
    return fd === NO_SOCKET ? undefined : fd;
  }

  /** Whether anything has come for a port that was not translated, as far as that can be told. */
  hasDropped(port: HostPort): boolean {
    const fd = this.socketOf(port);
    return fd === undefined || droppedBy(fd) > 0;
  }

  /** Gives a port back; not having it is success. */
  release(owner: string, port: HostPort): void {
    if (this.#lost.get(keyOf(port))?.owner === owner) this.#lost.delete(keyOf(port));
    const held = this.#held.get(keyOf(port));
    if (held?.owner !== owner) return;
    if (held.fd !== NO_SOCKET) close(held.fd);
    this.#held.delete(keyOf(port));
  }

  /** Gives every port back. */
  close(): void {
    for (const { fd } of this.#held.values()) if (fd !== NO_SOCKET) close(fd);
    this.#held.clear();
  }

  #open(
    owner: string,
    wanted: HostPort,
    admitted: readonly Admitted[],
    search: boolean,
  ): { fd: number; port: number } {
    try {
      const fd = boundSocket(wanted, admitted);
      if (fd === undefined) return { fd: NO_SOCKET, port: this.#withoutSocket(owner, wanted) };
      return { fd, port: wanted.port || portOf(fd) };
    } catch (error) {
      const { protocol, address, port } = wanted;
      if (isErrno(error, "EADDRINUSE")) throw this.#refusal(owner, wanted, search);
      // bind(2) would have to know the link, and Docker has no way to name one with the address.
      const ofOneLink = isLinkLocal(address);
      if (!ofOneLink && !isErrno(error, "EADDRNOTAVAIL")) throw error;
      const why = ofOneLink
        ? "is an address of one link only, choose another"
        : "is not an address of this host";
      throw new ConflictError(`cannot publish ${bracketed(address)}:${port}/${protocol}: ${address} ${why}`);
    }
  }

  /** Without SCTP in the kernel no process can have the port, but another container can. */
  #withoutSocket(owner: string, wanted: HostPort): number {
    const others = [...this.#held.values()].filter(
      ({ protocol, address }) => protocol === wanted.protocol && overlap(address, wanted.address),
    );
    const isFree = (port: number) => !others.some((other) => other.port === port);
    if (wanted.port !== 0) {
      if (isFree(wanted.port)) return wanted.port;
      throw this.#refusal(owner, wanted, false);
    }
    const [first = 0, last = 0] = readFileSync("/proc/sys/net/ipv4/ip_local_port_range", "utf8")
      .split(/\s+/)
      .map(Number);
    for (let port = first; port <= last; port++) if (isFree(port)) return port;
    throw this.#refusal(owner, wanted, false);
  }

  /** What another owner has lost and would have back: to give it away would leave that one without for good. */
  #lostTo(owner: string, port: HostPort): Owned | undefined {
    return [...this.#lost.values()].find((lost) => lost.owner !== owner && clash(lost, port));
  }

  #refusal(owner: string, wanted: HostPort, search: boolean): Error {
    const { protocol, address, port } = wanted;
    const own = [...this.#held.values()].find((held) => clash(held, wanted)) ?? this.#lostTo(owner, wanted);
    // No process shows its SCTP sockets.
    const find = () =>
      search && protocol !== "sctp" ? portOwner(protocol, port, parseIp(address).family)?.what : undefined;
    const what = `${bracketed(address)}:${port}/${protocol}`;
    const why =
      own?.owner === owner
        ? "this container asks for it twice"
        : `the port is taken by ${own?.owner ?? find() ?? "another process"}`;
    return new ConflictError(`cannot publish ${what}: ${why}`);
  }
}

function keyOf({ protocol, address, port }: HostPort): string {
  return `${protocol} ${address} ${port}`;
}

/** Whether two ports cannot both be had. */
function clash(a: HostPort, b: HostPort): boolean {
  return a.protocol === b.protocol && a.port === b.port && overlap(a.address, b.address);
}

/** Whether two bare addresses, one of which may mean all of its family, can be asked for at once. */
function overlap(a: string, b: string): boolean {
  if (a.includes(":") !== b.includes(":")) return false;
  return a === b || isUnspecified(a) || isUnspecified(b);
}
