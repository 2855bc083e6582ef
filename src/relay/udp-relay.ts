import { type RemoteInfo, type Socket, createSocket } from "node:dgram";
import { type NetworkInterfaceInfo, networkInterfaces } from "node:os";
import { KernelError } from "../errors.ts";
import { type Family, LOOPBACK, contains, isIp, isUnspecified, parseIp } from "../ip.ts";
import { isBridgeName } from "../names.ts";
import { type HostPort, boundSocket } from "../kernel/bound-socket.ts";
import { giveDescriptors, takeDescriptors } from "./descriptors.ts";
import type { Admitted } from "../kernel/socket-filter.ts";
import { setOption } from "../kernel/socket-option.ts";

/**
 * A client between which and the container nothing went for so long is forgotten (nf_conntrack_udp_timeout_stream is as
 * long).
 */
const IDLE_MS = 120_000;
/**
 * Clients of one port at a time. Each takes a descriptor of the daemon's, and anybody can write any sender's address.
 */
const CLIENTS = 1024;
/** Milliseconds between two looks at which addresses the host has. */
const LOOK_AGAIN_MS = 1000;
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
  /** By the address that each is bound to. */
  readonly #servers = new Map<string, Socket>();
  /** The one that was silent longest first. */
  readonly #clients = new Map<string, Client>();
  /** What the host had when it was looked at last. */
  #found: readonly OwnAddress[] = [];

  /** @param fd of a socket that is bound to the port; it becomes the relay's */
  constructor(fd: number, carried: Carried) {
    this.#carried = carried;
    this.#fd = fd;
    this.#serve(carried.host.address, fd);
    this.#serveEachAddress();
    // libuv lets others share the addresses of its UDP sockets, but this one is there to keep its own.
    setOption(fd, "SO_REUSEADDR", 0);
  }

  /** Serves the port no longer. */
  close(): void {
    for (const key of this.#clients.keys()) this.#forget(key);
    for (const server of this.#servers.values()) server.close();
  }

  #serve(address: string, fd: number): void {
    const server = createSocket(TYPE[this.#carried.family]);
    server.on("error", () => undefined);
    server.on("message", (message, sender) => {
      // Nobody can be answered there, and some of it would come to the host itself.
      if (sender.port === 0 || isUnspecified(sender.address)) return;
      // Somebody wrote the relay's own name: it would answer itself, and that again, without end.
      if (sender.port === this.#carried.host.port && isOwn(sender.address)) return;
      this.#pass(server, `${address} ${sender.address} ${sender.port}`, message, sender);
    });
    server.bind({ fd });
    server.unref();
    this.#servers.set(address, server);
  }

  /**
   * A client that asked one of the host's addresses takes no answer from another, and what a socket for all of them
   * sends carries the one that the kernel likes best (RFC 6724, section 5): so each has a socket too, which gets what
   * is sent there. Where there can be none, the one for all serves.
   */
  #serveEachAddress(): void {
    const { host, family, clients, everywhere } = this.#carried;
    const found = everywhere ? addressesOfHost() : this.#found;
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

  /** The host no longer has an address. */
  #leave(address: string): void {
    for (const key of this.#clients.keys()) if (key.startsWith(`${address} `)) this.#forget(key);
    this.#servers.get(address)?.close();
    this.#servers.delete(address);
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
    if (!takeDescriptors(1)) return undefined;
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
    giveDescriptors(1);
  }
}

/** An address of the host's. */
type OwnAddress = NetworkInterfaceInfo & { readonly link: string };

let seen: { readonly at: number; readonly addresses: readonly OwnAddress[] } | undefined;

/** Asked for once a second, whoever wants them: with a thousand links that takes 20 ms. Until then the same array. */
function addressesOfHost(): readonly OwnAddress[] {
  const now = performance.now();
  if (!seen || now - seen.at >= LOOK_AGAIN_MS) seen = { at: now, addresses: everyAddress() };
  return seen.addresses;
}

function everyAddress(): OwnAddress[] {
  try {
    return Object.entries(networkInterfaces()).flatMap(([link, addresses = []]) =>
      addresses.map((one) => ({ ...one, link })),
    );
  } catch {
    // No descriptor is left to ask with.
    return [];
  }
}

/** Whether an address, perhaps with a zone, is the host's. */
function isOwn(address: string): boolean {
  const [bare] = address.split("%");
  return addressesOfHost().some((own) => own.address === bare);
}

/** Those of a family at which it matters which one answers: not on tsnet's bridges, whose own clients are answered right. */
function clientsAsk(all: readonly OwnAddress[], family: Family): string[] {
  return all
    .filter((one) => one.family === `IPv${family}` && !one.scopeid && !isBridgeName(one.link))
    .map(({ address }) => address)
    .filter((address) => !contains(LOOPBACK[family], address));
}
