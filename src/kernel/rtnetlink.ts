import { createNetlink, type NetlinkMessage, type NetlinkSocket, Protocol } from "netlink";
import { getSystemErrorName } from "node:util";
import { KernelError, reason } from "../errors.ts";
import { Limit } from "../lock.ts";
import { listen } from "./multicast.ts";

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

/** Flags of a request that makes something which must not be there yet. */
export const CREATE_EXCLUSIVE = 0x600;
/** Flags of a request that makes something, in place of what may be there. */
export const CREATE_OR_REPLACE = 0x500;
/** Flags of a request for everything of a kind (netlink(7)). */
export const NLM_F_DUMP = 0x300;
const NLMSG_ERROR = 2;
/** What the kernel's networking answers and Node has no name for (asm-generic/errno.h). */
const STRANGE_ERRNOS: Readonly<Record<number, string>> = { 54: "EXFULL", 76: "ENOTUNIQ", 117: "EUCLEAN" };
/**
 * Answers that may wait to be read. Each takes some 5 kB of the socket's buffer, and when it is full the kernel drops
 * what does not fit; but it answers inside the call that asks, so more would not be faster.
 */
const IN_FLIGHT = 16;
/** Milliseconds for an answer; only one that was dropped takes so long. */
const TIMEOUT_MS = 10_000;
/** Bytes to ask for; the kernel gives no more than net.core.rmem_max. */
const RECEIVE_BUFFER = 4 << 20;

/** Multicast groups of rtnetlink(7) that tell when somebody changed what tsnet made. */
const GROUPS = {
  link: 1,
  neighbour: 3,
  ipv4Address: 5,
  ipv4Route: 7,
  ipv6Address: 9,
  ipv6Route: 11,
} as const;

/** A change to links, addresses, routes or neighbours as the kernel announces it: the message's type and its payload. */
export interface KernelEvent {
  readonly type: number;
  readonly payload: Buffer;
}

/**
 * A netlink socket for requests. A full buffer is an error at which the binding ends the process, so only a few may be
 * under way at once; a dump waits for room by itself. For what comes unasked there is multicast.ts.
 */
export function openSocket(protocol: Protocol): NetlinkSocket {
  const socket = createNetlink(protocol);
  // One that nobody listens for would end the daemon, too. Whoever waits for the answer misses it.
  socket.on("error", () => undefined);
  socket.setRecvBufferSize(RECEIVE_BUFFER);
  return socket;
}

/**
 * Sends one request and waits for all of its answers.
 *
 * @param command what it amounts to in a tool's words, for the error's text
 * @returns none where the kernel only acknowledged
 * @throws {KernelError} with the errno's name
 */
export async function ask(
  socket: NetlinkSocket,
  command: string,
  type: number,
  flags: number,
  payload: Buffer,
): Promise<NetlinkMessage[]> {
  let answers: NetlinkMessage[];
  try {
    [answers] = await socket.request(type, payload, { flags, checkError: false, timeout: TIMEOUT_MS });
  } catch (cause) {
    throw new KernelError(command, "", reason(cause), { cause });
  }
  const first = answers[0];
  if (first?.type !== NLMSG_ERROR) return answers;
  const errno = first.data.readInt32LE(0);
  if (errno === 0) return [];
  throw new KernelError(command, STRANGE_ERRNOS[-errno] ?? getSystemErrorName(errno));
}

/**
 * The kernel's routing sockets. Requests on one socket may overlap, dumps may not: the binding loses track of
 * a dump when another reply arrives in the middle of it. So there is one socket for each, and dumps take turns.
 */
export class Rtnetlink {
  readonly #requests = openSocket(Protocol.ROUTE);
  readonly #dumps = openSocket(Protocol.ROUTE);
  readonly #inFlight = new Limit(IN_FLIGHT);
  readonly #turns = new Limit(1);
  #stopWatching: () => void = () => undefined;

  /**
   * Sends one request and waits for its answer.
   *
   * @param command what it amounts to in iproute2's words, for the error's text
   * @returns the answer's payload; empty where the kernel only acknowledged
   * @throws {KernelError} with the errno's name
   */
  async request(command: string, type: number, flags: number, payload: Buffer): Promise<Buffer> {
    const [answer] = await this.#inFlight.run(() => ask(this.#requests, command, type, flags, payload));
    return answer?.data ?? Buffer.alloc(0);
  }

  /** Lists everything of a kind, one payload each. */
  async dump(command: string, type: number, payload: Buffer): Promise<Buffer[]> {
    const answers = await this.#turns.run(() => ask(this.#dumps, command, type, NLM_F_DUMP, payload));
    return answers.map((answer) => answer.data);
  }

  /**
   * Calls back for every change to a link, address, route or neighbour in this namespace, including tsnet's own.
   * The kernel drops events when they come faster than they are read, so they are a reason to look, not a log.
   */
  watch(onEvent: (event: KernelEvent) => void): void {
    this.#stopWatching = listen(Protocol.ROUTE, Object.values(GROUPS), {
      onMessages: (messages) => {
        for (const { type, data } of messages) onEvent({ type, payload: data });
      },
      // An event of type 0 says that some were lost without saying what.
      onLoss: () => {
        onEvent({ type: 0, payload: Buffer.alloc(0) });
      },
    });
  }

  /** Closes the sockets; requests in flight are lost. */
  close(): void {
    this.#stopWatching();
    this.#requests.close();
    this.#dumps.close();
  }
}
