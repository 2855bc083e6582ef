import { closeSync, openSync } from "node:fs";
import { constants } from "node:os";
import { getSystemErrorName } from "node:util";
import koffi from "koffi";
import { type Family, formatIp, ipBytes } from "../../src/ip.ts";
import { inNetns } from "../../src/kernel/netns.ts";

/** A packet as it was heard. */
export interface Heard {
  readonly number: number;
  /** It came back: an echo reply, or the refusal of a connection. */
  readonly answer: boolean;
  readonly source: string;
}

const libc = koffi.load("libc.so.6");
const socket = libc.func("int socket(int, int, int)");
const bind = libc.func("int bind(int, const void *, uint32)");
const connect = libc.func("int connect(int, const void *, uint32)");
const sendTo = libc.func("int64 sendto(int, const void *, uint64, int, const void *, uint32)");
const receive = libc.func(
  "int64 recvfrom(int, _Out_ uint8_t *, uint64, int, _Out_ uint8_t *, _Inout_ uint32 *)",
);

const AF = { 4: 2, 6: 10 } as const;
const SOCK = { tcp: 1, udp: 2, raw: 3 } as const;
const NONBLOCK_CLOEXEC = 0x80800;
const PROTOCOLS = { ping: { 4: 1, 6: 58 }, tcp: { 4: 6, 6: 6 }, udp: { 4: 17, 6: 17 } } as const;
/** What can be heard. */
export type Protocol = keyof typeof PROTOCOLS;
const ECHO = { 4: { request: 8, reply: 0 }, 6: { request: 128, reply: 129 } } as const;
const TCP = { syn: 0x02, rst: 0x04, ack: 0x10 } as const;
/** What a sender is told that has no way to the target, or need not wait for it. */
const NO_WAY = (["EINPROGRESS", "ENETUNREACH", "EHOSTUNREACH", "ECONNREFUSED"] as const).map(
  (name) => constants.errno[name],
);

/**
 * One family's sockets of a place. It hears what the kernel has taken in as meant for this place, past all of its
 * rules, whether or not anybody listens at that port (raw(7)).
 */
export class Ear {
  readonly #netns: number;
  readonly #family: Family;
  readonly #fds: Readonly<Record<Protocol, number>>;
  readonly #data = Buffer.alloc(2048);
  readonly #from = Buffer.alloc(28);

  /** @param netns path of the place's namespace */
  constructor(netns: string, family: Family) {
    this.#netns = openSync(netns, "r");
    this.#family = family;
    const open = (protocol: Protocol) => this.#socket(SOCK.raw, PROTOCOLS[protocol][family]);
    this.#fds = { ping: open("ping"), tcp: open("tcp"), udp: open("udp") };
  }

  /** Sends a packet that carries a number: as the identifier of an echo request, or as the port that it comes from. */
  say(protocol: Protocol, number: number, address: string, port: number): void {
    if (protocol === "ping") {
      const to = this.#sockaddr(address, 0);
      must("ping", sendTo(this.#fds.ping, echoRequest(this.#family, number), 8, 0, to, to.length), NO_WAY);
      return;
    }
    const to = this.#sockaddr(address, port);
    const from = this.#sockaddr(this.#family === 4 ? "0.0.0.0" : "::", number);
    const fd = this.#socket(SOCK[protocol], 0);
    try {
      must("bind", bind(fd, from, from.length));
      if (protocol === "tcp") must("connect", connect(fd, to, to.length), NO_WAY);
      else must("sendto", sendTo(fd, Buffer.alloc(1), 1, 0, to, to.length), NO_WAY);
    } finally {
      closeSync(fd);
    }
  }

  /** What has arrived since this was asked last. */
  hear(): Heard[] {
    const heard: Heard[] = [];
    for (const protocol of ["ping", "tcp", "udp"] as const)
      for (let size = this.#receive(protocol); size >= 0; size = this.#receive(protocol)) {
        // With IPv4 the header comes along (raw(7)), with IPv6 it does not (RFC 3542, section 3).
        const [header, from, to] =
          this.#family === 4 ? [(this.#data.readUInt8(0) & 0xf) * 4, 4, 8] : [0, 8, 24];
        const read = readPacket(protocol, this.#family, this.#data.subarray(header, size));
        if (read) heard.push({ ...read, source: formatIp(this.#from.subarray(from, to)) });
      }
    return heard;
  }

  close(): void {
    for (const fd of [this.#netns, ...Object.values(this.#fds)]) closeSync(fd);
  }

  #socket(type: number, protocol: number): number {
    const open = () => socket(AF[this.#family], type | NONBLOCK_CLOEXEC, protocol) as number;
    return must("socket", inNetns(this.#netns, open));
  }

  #receive(protocol: Protocol): number {
    const length = [this.#from.length];
    const size: unknown = receive(this.#fds[protocol], this.#data, this.#data.length, 0, this.#from, length);
    return must("recvfrom", size, [constants.errno.EAGAIN]);
  }

  /** struct sockaddr_in or sockaddr_in6 (ip(7), ipv6(7)). */
  #sockaddr(address: string, port: number): Buffer {
    const out = Buffer.alloc(this.#family === 4 ? 16 : 28);
    out.writeUInt16LE(AF[this.#family], 0);
    out.writeUInt16BE(port, 2);
    ipBytes(address).copy(out, this.#family === 4 ? 4 : 8);
    return out;
  }
}

function readPacket(protocol: Protocol, family: Family, data: Buffer): Omit<Heard, "source"> | undefined {
  if (protocol === "udp") return { number: data.readUInt16BE(0), answer: false };
  if (protocol === "ping") {
    const type = data.readUInt8(0);
    const { request, reply } = ECHO[family];
    return [request, reply].some((echo) => echo === type)
      ? { number: data.readUInt16BE(4), answer: type === reply }
      : undefined;
  }
  const flags = data.readUInt8(13);
  if (flags & TCP.rst) return { number: data.readUInt16BE(2), answer: true };
  return flags & TCP.syn && !(flags & TCP.ack) ? { number: data.readUInt16BE(0), answer: false } : undefined;
}

/** RFC 792; for IPv6 the kernel fills in the checksum (RFC 3542, section 3.1). */
function echoRequest(family: Family, number: number): Buffer {
  const out = Buffer.alloc(8);
  out.writeUInt8(ECHO[family].request, 0);
  const sum = (ECHO[family].request << 8) + number;
  if (family === 4) out.writeUInt16BE(~((sum & 0xffff) + (sum >>> 16)) & 0xffff, 2);
  out.writeUInt16BE(number, 4);
  return out;
}

/** A call's result. @throws unless it is a success or one of the allowed errors */
function must(call: string, result: unknown, allowed: readonly number[] = []): number {
  const errno = koffi.errno();
  if ((result as number) < 0 && !allowed.includes(errno))
    throw new Error(`${call}: ${getSystemErrorName(-errno)}`);
  return result as number;
}
