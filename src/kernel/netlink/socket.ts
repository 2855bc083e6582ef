import { getSystemErrorName } from "node:util";
import { KernelError } from "../../errors.ts";
import { settled } from "../../lock.ts";
import { SOCK, close, failure, receive, send, socket } from "../libc.ts";
import type { Protocol } from "./binding.ts";
import { type NetlinkMessage, NOTHING, netlinkMessage, netlinkMessages } from "./message.ts";

/** Flags of a request that makes something which must not be there yet. */
export const CREATE_EXCLUSIVE = 0x600;
/** Flags of a request that makes something, in place of what may be there. */
export const CREATE_OR_REPLACE = 0x500;
const NLM_F_REQUEST = 1;
const NLM_F_ACK = 4;
/** Everything of a kind. */
const NLM_F_DUMP = 0x300;
const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;
const AF_NETLINK = 16;
const MSG_DONTWAIT = 0x40;
/** What the kernel's networking answers and Node has no name for (asm-generic/errno.h). */
const STRANGE_ERRNOS: Readonly<Record<number, string>> = { 54: "EXFULL", 76: "ENOTUNIQ", 117: "EUCLEAN" };

/**
 * Requests that go to the kernel in one message. Each answer takes some 5 kB of the socket's buffer, and what does not
 * fit is lost; and whoever is first waits for the last.
 */
const TOGETHER = 16;
/** Requests that one answer is enough for. If all of them fail, what is said of each fits the socket's buffer. */
const DOZENS = 64;
/** How often a list is asked for that has changed each time before its end; then it is taken as it is. */
const DUMPS = 3;
/** Bytes that hold any answer, and any piece of a dump (netlink_dump, net/netlink/af_netlink.c). */
const ANSWER_SIZE = 32 << 10;

/** What somebody waits for. */
interface Request {
  /** What it amounts to in a tool's words, for the error's text. */
  readonly command: string;
  readonly type: number;
  readonly flags: number;
  readonly payload: Buffer;
  /** The same is asked of these before, and nobody wants to know what comes of it. */
  readonly silent: readonly Buffer[];
  readonly keep: (answer: NetlinkMessage) => boolean;
  readonly answers: NetlinkMessage[];
  /** What was listed changed meanwhile. */
  torn: boolean;
  readonly resolve: (done: Request) => void;
  readonly reject: (error: unknown) => void;
}

/** What is to be asked. */
type Question = Pick<Request, "command" | "type" | "flags" | "payload" | "keep"> &
  Partial<Pick<Request, "silent">>;

/**
 * A netlink socket for requests. The kernel does what it is asked for within the call that sends, and there it waits
 * for whoever else changes links (the engine, 15 ms for each that it moves to a sandbox). So requests are sent on a
 * thread of the pool, one message at a time; those that come meanwhile go together in the next.
 */
export class NetlinkSocket {
  readonly #fd: number;
  readonly #waiting: Request[] = [];
  readonly #buffer = Buffer.alloc(ANSWER_SIZE);
  #sequence = 0;
  #working = false;
  #closed = false;

  constructor(protocol: Protocol) {
    this.#fd = socket(AF_NETLINK, SOCK.RAW, protocol);
    if (this.#fd < 0) throw failure("socket AF_NETLINK");
  }

  /**
   * Sends one request and waits for its answer.
   *
   * @param command what it amounts to in iproute2's words, for the error's text
   * @returns none where the kernel only acknowledged
   * @throws {KernelError} with the errno's name
   */
  async request(command: string, type: number, flags: number, payload: Buffer): Promise<NetlinkMessage[]> {
    return (await this.#ask({ command, type, flags, payload, keep: () => true })).answers;
  }

  /**
   * Sends many requests of a kind and waits until the kernel has dealt with all of them. Only of one in some dozens it
   * says what came of it.
   *
   * @throws {KernelError} if one of those failed
   */
  async requestEach(command: string, type: number, payloads: readonly Buffer[]): Promise<void> {
    const asked: Promise<Request>[] = [];
    for (let at = 0; at < payloads.length; at += DOZENS) {
      const silent = payloads.slice(at, at + DOZENS);
      const payload = silent.pop() ?? NOTHING;
      asked.push(this.#ask({ command, type, flags: 0, payload, silent, keep: () => false }));
    }
    await settled(asked);
  }

  /**
   * Asks for everything of a kind.
   *
   * @param keep which of it is wanted, asked as it comes: there may be hundreds of thousands
   */
  async dump(
    command: string,
    type: number,
    payload: Buffer,
    keep: (answer: NetlinkMessage) => boolean = () => true,
  ): Promise<NetlinkMessage[]> {
    for (let left = DUMPS; ; left -= 1) {
      const { answers, torn } = await this.#ask({ command, type, flags: NLM_F_DUMP, payload, keep });
      if (!torn || left === 1) return answers;
    }
  }

  /** Closes it once what was asked for has been answered. */
  close(): void {
    this.#closed = true;
    if (!this.#working) close(this.#fd);
  }

  #ask(question: Question): Promise<Request> {
    return new Promise((resolve, reject) => {
      const flags = question.flags | NLM_F_REQUEST | NLM_F_ACK;
      this.#waiting.push({ silent: [], answers: [], torn: false, resolve, reject, ...question, flags });
      if (!this.#working) void this.#work();
    });
  }

  async #work(): Promise<void> {
    this.#working = true;
    while (this.#waiting.length > 0) {
      const batch = this.#batch();
      try {
        await this.#exchange(batch);
      } catch (cause) {
        const errno = cause instanceof KernelError ? cause.errno : "";
        for (const { command, reject } of batch)
          reject(new KernelError(command, errno, "the kernel could not be asked", { cause }));
      }
    }
    this.#working = false;
    if (this.#closed) close(this.#fd);
  }

  /** What goes next: a dump by itself, since the kernel makes its answer while that is read, and many likewise. */
  #batch(): Request[] {
    const next = this.#waiting.slice(0, TOGETHER);
    const alone = next.findIndex((request) => isDump(request) || request.silent.length > 0);
    return this.#waiting.splice(0, alone < 0 ? next.length : alone || 1);
  }

  async #exchange(batch: readonly Request[]): Promise<void> {
    const open = new Map(batch.map((request) => [this.#nextSequence(), request]));
    const messages = [...open].flatMap(([sequence, { type, flags, payload, silent }]) => [
      ...silent.map((one) => netlinkMessage(type, NLM_F_REQUEST, 0, one)),
      netlinkMessage(type, flags, sequence, payload),
    ]);
    const datagram = Buffer.concat(messages);
    await onThread((done) => {
      send.async(this.#fd, datagram, datagram.length, 0, done);
    });
    const isDumped = batch.some(isDump);
    while (open.size > 0)
      for (const message of isDumped ? await this.#received() : this.#queued()) {
        const request = open.get(message.sequence);
        if (!request) continue;
        request.torn ||= message.torn;
        if (message.type === NLMSG_ERROR || message.type === NLMSG_DONE) {
          open.delete(message.sequence);
          finish(request, message);
        } else if (request.keep(message)) request.answers.push(message);
      }
  }

  #nextSequence(): number {
    this.#sequence = (this.#sequence + 1) >>> 0;
    return this.#sequence;
  }

  /** What is there to be read: the answers, by the time that the kernel has taken requests. */
  #queued(): NetlinkMessage[] {
    const size = receive(this.#fd, this.#buffer, ANSWER_SIZE, MSG_DONTWAIT) as number;
    if (size < 0) throw failure("recv AF_NETLINK");
    return this.#messages(size);
  }

  /** The next piece of a dump, which the kernel makes when it is read. */
  async #received(): Promise<NetlinkMessage[]> {
    const size = await onThread((done) => {
      receive.async(this.#fd, this.#buffer, ANSWER_SIZE, 0, done);
    });
    return this.#messages(size);
  }

  #messages(size: number): NetlinkMessage[] {
    return netlinkMessages(Buffer.from(this.#buffer.subarray(0, size)));
  }
}

function isDump({ flags }: Request): boolean {
  return (flags & NLM_F_DUMP) === NLM_F_DUMP;
}

/** Its last message, of either type, begins with the negative errno. */
function finish(request: Request, { data }: NetlinkMessage): void {
  const { command, resolve, reject } = request;
  const errno = data.readInt32LE(0);
  if (errno === 0) resolve(request);
  else reject(new KernelError(command, STRANGE_ERRNOS[-errno] ?? getSystemErrorName(errno)));
}

/** Has libc called on a thread of the pool. */
async function onThread(call: (done: (error: unknown, size: number) => void) => void): Promise<number> {
  return await new Promise((resolve, reject) => {
    call((error, size) => {
      // Its errno is the thread's, which nobody can ask for any more.
      if (error || size < 0) reject(new Error("AF_NETLINK failed", { cause: error }));
      else resolve(size);
    });
  });
}
