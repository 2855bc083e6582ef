import { Protocol } from "./binding.ts";
import { subscribe } from "./multicast.ts";
import { NetlinkSocket } from "./socket.ts";

/** Message types of rtnetlink(7), linux/rtnetlink.h. */
export const RTM = {
  NEWLINK: 16,
  DELLINK: 17,
  GETLINK: 18,
  NEWADDR: 20,
  DELADDR: 21,
  GETADDR: 22,
  NEWROUTE: 24,
  DELROUTE: 25,
  GETROUTE: 26,
  NEWNEIGH: 28,
  DELNEIGH: 29,
  GETNEIGH: 30,
} as const;

/** Bytes of struct ifinfomsg, the head of messages about links. */
export const IFINFOMSG = 16;

/** Who made a route or a neighbour entry, as rtnetlink(7) keeps it: "t". The kernel gives 4 and above no meaning. */
export const RTPROT_TSNET = 0x74;

/** Multicast groups of rtnetlink(7) that tell when somebody changed what tsnet made. */
const GROUPS = {
  link: 1,
  neighbour: 3,
  ipv4Address: 5,
  ipv4Route: 7,
  ipv6Address: 9,
  ipv6Route: 11,
} as const;

/**
 * A change to links, addresses, routes or neighbours as the kernel announces it: the message's type and its payload.
 */
export interface KernelEvent {
  readonly type: number;
  readonly payload: Buffer;
}

/** The kernel's routing sockets: one for what is quick, and one for dumps. */
export class Rtnetlink {
  readonly #requests = new NetlinkSocket(Protocol.ROUTE);
  readonly #dumps: NetlinkSocket;
  #stopWatching: () => void = () => undefined;

  /** @throws {KernelError} where there are no descriptors left for both */
  constructor() {
    try {
      this.#dumps = new NetlinkSocket(Protocol.ROUTE);
    } catch (error) {
      this.#requests.close();
      throw error;
    }
  }

  /**
   * Sends one request and waits for its answer, see {@link NetlinkSocket.request}.
   *
   * @returns the answer's payload; empty where the kernel only acknowledged
   */
  async request(command: string, type: number, flags: number, payload: Buffer): Promise<Buffer> {
    const [answer] = await this.#requests.request(command, type, flags, payload);
    return answer?.data ?? Buffer.alloc(0);
  }

  /** Lists everything of a kind, one payload each. */
  async dump(command: string, type: number, payload: Buffer): Promise<Buffer[]> {
    return (await this.#dumps.dump(command, type, payload)).map(({ data }) => data);
  }

  /**
   * Calls back for every change to a link, address, route or neighbour in this namespace, including tsnet's own.
   * The kernel drops events when they come faster than they are read, so they are a reason to look, not a log.
   */
  watch(onEvent: (event: KernelEvent) => void): void {
    this.#stopWatching = subscribe(Protocol.ROUTE, Object.values(GROUPS), {
      onMessages: (messages) => {
        for (const { type, data } of messages) onEvent({ type, payload: data });
      },
      // An event of type 0 says that some were lost without saying what.
      onLoss: () => {
        onEvent({ type: 0, payload: Buffer.alloc(0) });
      },
    });
  }

  /** Closes the sockets, once what was asked for has been answered. */
  close(): void {
    this.#stopWatching();
    this.#requests.close();
    this.#dumps.close();
  }
}
