import koffi from "koffi";
import { type Socket as DatagramSocket, type RemoteInfo, createSocket } from "node:dgram";
import { type Server, type Socket, connect, createServer } from "node:net";
import { getSystemErrorName } from "node:util";
import { KernelError } from "../errors.ts";
import { type Family, parseIp } from "../ip.ts";
import { receiveOnlyFrom } from "./socket-filter.ts";
import { setOption } from "./socket-option.ts";

/** A client that sent nothing for so long is forgotten (nf_conntrack_udp_timeout_stream is as long). */
const UDP_IDLE_MS = 120_000;
/** Clients of one UDP port at a time. Each takes a descriptor of the daemon's, and anybody can write any sender's address. */
const UDP_CLIENTS = 1024;
/** Milliseconds without a word until the other end is asked whether it is there: one that vanished says nothing (tcp(7)). */
const TCP_IDLE_MS = 60_000;
/** Of both halves of a connection. */
const CONNECTION = { allowHalfOpen: true, keepAlive: true, keepAliveInitialDelay: TCP_IDLE_MS };

/** Where a container listens. Bare address. */
export interface RelayTarget {
  readonly address: string;
  readonly port: number;
}

/** What is served by a relay. */
export interface Relayed {
  readonly protocol: "tcp" | "udp";
  readonly family: Family;
  /** Subnets with prefix length that may ask. */
  readonly clients: readonly string[];
  readonly target: RelayTarget;
}

const F_DUPFD_CLOEXEC = 1030;

/**
 * Carries into a container what the kernel cannot translate of what is sent to its published ports. Everything else
 * never gets to the port's socket. There are three such senders:
 *
 *   [::1]            The host's own processes. An answer that is translated back to ::1 comes in by the bridge, and the
 *                    kernel drops whatever has a loopback address and did not come in by loopback (ip6_rcv_core, RFC
 *                    4291, section 2.5.3); IPv6 has no route_localnet. Where iptables sees bridged frames the
 *                    translation comes even before that check, so no rule or route can help.
 *   the other family Anybody, by IPv6 where the container has IPv4 only, or the reverse.
 *   enable_icc=false Containers of the same network. Where iptables sees bridged frames the frame is translated
 *                    within the bridge, and an isolated port is given nothing that an isolated port has sent,
 *                    not even itself.
 */
export class Relay {
  readonly #libc = koffi.load("libc.so.6");
  readonly #control = this.#libc.func("int fcntl(int, int, ...)");
  readonly #running = new Map<string, () => void>();

  /**
   * Serves a port; serving it already is success.
   *
   * @param key names the port for {@link stop}
   * @param fd of the socket that keeps the port; it stays open and the caller's
   * @returns whether it was not served until now
   * @throws {KernelError} if it cannot be
   */
  start(key: string, fd: number, { protocol, family, clients, target }: Relayed): boolean {
    if (this.#running.has(key)) return false;
    receiveOnlyFrom(fd, family, clients);
    // Not dup(2): the programs that the daemon starts must not get it.
    const own = this.#control(fd, F_DUPFD_CLOEXEC, "int", 0) as number;
    if (own < 0) throw new KernelError("fcntl F_DUPFD_CLOEXEC", getSystemErrorName(-koffi.errno()));
    this.#running.set(key, protocol === "tcp" ? relayTcp(own, target) : relayUdp(own, family, target));
    // libuv lets others share the addresses of its UDP sockets, but this one is there to keep its own.
    if (protocol === "udp") setOption(fd, "SO_REUSEADDR", 0);
    return true;
  }

  /** Serves a port no longer; connections under way end. */
  stop(key: string): void {
    this.#running.get(key)?.();
    this.#running.delete(key);
  }

  /** Serves nothing any longer. */
  close(): void {
    for (const key of this.#running.keys()) this.stop(key);
  }
}

function relayTcp(fd: number, { address, port }: RelayTarget): () => void {
  const open = new Set<Socket>();
  const keep = (socket: Socket, other: Socket) => {
    open.add(socket);
    socket.on("error", () => other.destroy());
    socket.on("close", () => open.delete(socket));
    socket.pipe(other);
  };
  const server: Server = createServer(CONNECTION, (client) => {
    const container = connect({ ...CONNECTION, host: address, port });
    keep(client, container);
    keep(container, client);
  });
  // The port is the container's whether or not the daemon manages to accept; it tries again with the next client.
  server.on("error", () => undefined);
  server.listen({ fd });
  server.unref();
  return () => {
    server.close();
    for (const socket of open) socket.destroy();
  };
}

function relayUdp(fd: number, family: Family, { address, port }: RelayTarget): () => void {
  /** The one that was silent longest first. */
  const clients = new Map<string, { socket: DatagramSocket; timer: NodeJS.Timeout }>();
  const server = createSocket(TYPE[family]);
  const forget = (client: string) => {
    const known = clients.get(client);
    clearTimeout(known?.timer);
    known?.socket.close();
    clients.delete(client);
  };
  const meet = (client: string, sender: RemoteInfo) => {
    const [silent] = clients.keys();
    if (silent !== undefined && clients.size >= UDP_CLIENTS) forget(silent);
    const socket = createSocket(TYPE[parseIp(address).family], (answer) => {
      server.send(answer, sender.port, sender.address);
    });
    socket.on("error", () => {
      forget(client);
    });
    socket.unref();
    return { socket, timer: setTimeout(forget, UDP_IDLE_MS, client).unref() };
  };
  server.on("error", () => undefined);
  server.on("message", (message, sender) => {
    const client = `${sender.address} ${sender.port}`;
    const known = clients.get(client) ?? meet(client, sender);
    clients.delete(client);
    clients.set(client, known);
    known.timer.refresh();
    known.socket.send(message, port, address);
  });
  server.bind({ fd });
  server.unref();
  return () => {
    for (const client of clients.keys()) forget(client);
    server.close();
  };
}

const TYPE = { 4: "udp4", 6: "udp6" } as const;
