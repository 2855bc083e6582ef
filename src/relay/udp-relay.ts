import { type RemoteInfo, type Socket, createSocket } from "node:dgram";
import { KernelError } from "../errors.ts";
import { type Family, UNSPECIFIED, isIp, isUnspecified, parseIp } from "../ip.ts";
import { type HostPort, boundSocket } from "../kernel/bound-socket.ts";
import type { Admitted } from "../kernel/socket-filter.ts";
import { setOption } from "../kernel/socket-option.ts";
import type { DescriptorBudget } from "./descriptors.ts";
import { type OwnAddresses, clientsAsk } from "./own-addresses.ts";

/**
 * A client between which and the container nothing went for so long is forgotten (nf_conntrack_udp_timeout_stream is as
 * long).
 */
const IDLE_MS = 120_000;
/**
 * Clients of one port at a time. Each takes a descriptor of the daemon's, and anybody can write any sender's address.
 */
const CLIENTS = 1024;
const TYPE = { 4: "udp4", 6: "udp6" } as const;

/** What a relay carries into a container. */
export interface Carried {
  /** Of its clients. */
  readonly family: Family;
  /** Where they send to. */
  readonly host: Pick<HostPort, "address" | "port">;
  /** They may do so at any of the host's addresses, and `host` stands for all of them. */
  readonly everywhere: boolean;
  /** Whoever may ask. */
  readonly clients: readonly Admitted[];
  /** Where the container listens. */
  readonly target: Pick<HostPort, "address" | "port">;
}

/** What all relays of a daemon have together. */
export interface Shared {
  readonly descriptors: DescriptorBudget;
  readonly own: OwnAddresses;
  /** Where they take datagrams, as {@link placeOf} has it. */
  readonly places: Set<string>;
}

interface Client {
  readonly socket: Socket;
  readonly timer: NodeJS.Timeout;
}

/**
 * Carries the datagrams of one port, each client's by a socket of its own, so that the container can tell them apart.
 */
export class UdpRelay {
  readonly #carried: Carried;
  readonly #fd: number;
  readonly #shared: Shared;
  /** By the address that each is bound to. */
  readonly #servers = new Map<string, Socket>();
  /** The one that was silent longest first. */
  readonly #clients = new Map<string, Client>();
  /** What the host had when it was looked at last. */
  #found: ReturnType<OwnAddresses["reached"]> = [];

  /** @param fd of a socket that is bound to the port; it becomes the relay's */
  constructor(fd: number, carried: Carried, shared: Shared) {
    this.#carried = carried;
    this.#fd = fd;
    this.#shared = shared;
    this.#serve(carried.host.address, fd);
    this.#serveEachAddress();
    // libuv lets others share the addresses of its UDP sockets, but this one is there to keep its own.
    setOption(fd, "SO_REUSEADDR", 0);
  }

  /** Serves the port no longer. */
  close(): void {
    for (const key of this.#clients.keys()) this.#forget(key);
    for (const address of this.#servers.keys()) this.#leave(address);
  }

  #serve(address: string, fd: number): void {
    const server = createSocket(TYPE[this.#carried.family]);
    server.on("error", () => undefined);
    server.on("message", (message, sender) => {
      // Nobody can be answered there, and some of it would come to the host itself.
      if (sender.port === 0 || isUnspecified(sender.address)) return;
      if (this.#isRelay(sender)) return;
      this.#pass(server, `${address} ${sender.address} ${sender.port}`, message, sender);
    });
    server.bind({ fd });
    server.unref();
    this.#servers.set(address, server);
    this.#shared.places.add(placeOf(address, this.#carried.host.port));
  }

  /**
   * Whether somebody wrote the name of a relay, of this one or another: two of them would answer each other, and that
   * again, without end. The kernel lets its own addresses in as senders of IPv6.
   */
  #isRelay({ address, port }: RemoteInfo): boolean {
    const { places, own } = this.#shared;
    if (places.has(placeOf(address, port))) return true;
    return places.has(placeOf(UNSPECIFIED[this.#carried.family], port)) && own.has(address);
  }

  /**
   * A client that asked one of the host's addresses takes no answer from another, and what a socket for all of them
   * sends carries the one that the kernel likes best (RFC 6724, section 5): so each has a socket too, which gets what
   * is sent there. Where there can be none, the one for all serves.
   */
  #serveEachAddress(): void {
    const { host, family, clients, everywhere } = this.#carried;
    const found = everywhere ? this.#shared.own.reached() : this.#found;
    if (found === this.#found) return;
    this.#found = found;
    const asked = clientsAsk(found, family);
    for (const address of this.#servers.keys())
      // Without a descriptor to ask with nothing is found.
      if (found.length > 0 && address !== host.address && !asked.includes(address)) this.#leave(address);
    for (const address of asked.filter((one) => !this.#servers.has(one)))
      try {
        setOption(this.#fd, "SO_REUSEADDR", 1);
        const fd = boundSocket({ protocol: "udp", address, port: host.port }, clients, true);
        if (fd === undefined) continue;
        this.#serve(address, fd);
        setOption(fd, "SO_REUSEADDR", 0);
      } catch (error) {
        if (!(error instanceof KernelError)) throw error;
      } finally {
        setOption(this.#fd, "SO_REUSEADDR", 0);
      }
  }

  /** Serves an address no longer. */
  #leave(address: string): void {
    for (const key of this.#clients.keys()) if (key.startsWith(`${address} `)) this.#forget(key);
    this.#servers.get(address)?.close();
    this.#servers.delete(address);
    this.#shared.places.delete(placeOf(address, this.#carried.host.port));
  }

  #pass(server: Socket, key: string, message: Buffer, sender: RemoteInfo): void {
    const { host, target } = this.#carried;
    const known = this.#clients.get(key) ?? this.#meet(server, key, sender);
    if (!known) return;
    this.#clients.delete(key);
    this.#clients.set(key, known);
    known.timer.refresh();
    known.socket.send(message, target.port, target.address);
    // It may have come to an address that the host has only now.
    if (server === this.#servers.get(host.address)) this.#serveEachAddress();
  }

  /** @returns undefined if there is no descriptor for one more */
  #meet(server: Socket, key: string, sender: RemoteInfo): Client | undefined {
    const { target } = this.#carried;
    const [silent] = this.#clients.keys();
    if (silent !== undefined && this.#clients.size >= CLIENTS) this.#forget(silent);
    if (!this.#shared.descriptors.take(1)) return undefined;
    const timer = setTimeout(() => {
      this.#forget(key);
    }, IDLE_MS).unref();
    const socket = createSocket(TYPE[parseIp(target.address).family], (answer, from) => {
      // Anybody who finds the socket can send to it, also from an address with a zone.
      if (from.port !== target.port || !isIp(from.address)) return;
      if (parseIp(from.address).address !== target.address) return;
      timer.refresh();
      server.send(answer, sender.port, sender.address);
    });
    socket.on("error", () => {
      this.#forget(key);
    });
    socket.unref();
    return { socket, timer };
  }

  #forget(key: string): void {
    const known = this.#clients.get(key);
    if (!known) return;
    clearTimeout(known.timer);
    known.socket.close();
    this.#clients.delete(key);
    this.#shared.descriptors.give(1);
  }
}

/** An address, perhaps with a zone, and a port. */
function placeOf(address: string, port: number): string {
  return `${address.split("%")[0]} ${port}`;
}
