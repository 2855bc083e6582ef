import { type Server, type Socket, connect, createServer } from "node:net";
import { duplicate, failure } from "../kernel/libc.ts";
import { DescriptorBudget } from "./descriptors.ts";
import { OwnAddresses } from "./own-addresses.ts";
import { type Carried, type Shared, UdpRelay } from "./udp-relay.ts";

/**
 * Milliseconds without a word until the other end is asked whether it is there: one that vanished says nothing
 * (tcp(7)).
 */
const TCP_IDLE_MS = 60_000;
/** Of both halves of a connection. */
const CONNECTION = { allowHalfOpen: true, keepAlive: true, keepAliveInitialDelay: TCP_IDLE_MS };

/** What is served by a relay. */
export interface Relayed extends Carried {
  readonly protocol: "tcp" | "udp";
}

/**
 * Carries into a container what the kernel cannot translate of what is sent to its published ports. Everything else
 * never gets to the port's socket. There are four such senders:
 *
 *   [::1]            The host's own processes. An answer that is translated back to ::1 comes in by the bridge, and the
 *                    kernel drops whatever has a loopback address and did not come in by loopback (ip6_rcv_core, RFC
 *                    4291, section 2.5.3); IPv6 has no route_localnet. Where iptables sees bridged frames the
 *                    translation comes even before that check, so no rule or route can help.
 *   the other family Anybody, by IPv6 where the container has IPv4 only, or the reverse.
 *   enable_icc=false Containers of the same network. Where iptables sees bridged frames the frame is translated
 *                    within the bridge, and an isolated port is given nothing that an isolated port has sent,
 *                    not even itself.
 *   itself           A container that asks for a port it publishes: the frame, translated within the bridge, would
 *                    have to go back where it came from, which a port without hairpin mode does not do. With it the
 *                    container would hear all its own broadcasts.
 */
export class Relay {
  readonly #running = new Map<string, () => void>();
  readonly #shared: Shared = {
    descriptors: new DescriptorBudget(),
    own: new OwnAddresses(),
    places: new Set(),
  };

  /**
   * Serves a port; serving it already is success.
   *
   * @param key names the port for {@link stop}
   * @param fd of the socket that keeps the port, which receives what is to be carried; it stays open and the caller's
   * @returns whether it was not served until now
   * @throws {KernelError} if it cannot be
   */
  start(key: string, fd: number, relayed: Relayed): boolean {
    if (this.#running.has(key)) return false;
    const own = duplicate(fd);
    if (own < 0) throw failure("fcntl F_DUPFD_CLOEXEC");
    const { descriptors } = this.#shared;
    const end =
      relayed.protocol === "tcp"
        ? relayTcp(own, relayed.target, descriptors)
        : relayUdp(own, relayed, this.#shared);
    this.#running.set(key, end);
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

function relayTcp(
  fd: number,
  { address, port }: Carried["target"],
  descriptors: DescriptorBudget,
): () => void {
  const open = new Set<Socket>();
  const keep = (socket: Socket, other: Socket) => {
    open.add(socket);
    socket.on("error", () => other.destroy());
    socket.on("close", () => {
      open.delete(socket);
      descriptors.give(1);
    });
    socket.pipe(other);
  };
  const server: Server = createServer(CONNECTION, (client) => {
    if (!descriptors.take(2)) {
      client.destroy();
      return;
    }
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

function relayUdp(fd: number, relayed: Relayed, shared: Shared): () => void {
  const relay = new UdpRelay(fd, relayed, shared);
  return () => {
    relay.close();
  };
}
