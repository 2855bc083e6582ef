import { Protocol } from "./netlink/binding.ts";
import { isErrno } from "../errors.ts";
import { FAMILIES, type Family, UNSPECIFIED, bare, formatIp, ipBytes, parseCidr, parseIp } from "../ip.ts";
import { AF } from "./libc.ts";
import { Attributes, type NetlinkMessage, bytes, nest, u32, u8 } from "./netlink/message.ts";
import { NetlinkSocket } from "./netlink/socket.ts";
import { readSysctl } from "./sysctl.ts";

/** linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h. */
const CT_GET = (1 << 8) | 1;
const CT_DELETE = (1 << 8) | 2;
const CTA = {
  TUPLE_ORIG: 1,
  TUPLE_REPLY: 2,
  STATUS: 3,
  ID: 12,
  ZONE: 18,
  FILTER: 25,
  STATUS_MASK: 26,
} as const;
const CTA_TUPLE = { IP: 1, PROTO: 2 } as const;
const CTA_IP = { 4: { SRC: 1, DST: 2 }, 6: { SRC: 3, DST: 4 } } as const;
const CTA_PROTO = { NUM: 1, DST_PORT: 3 } as const;
const CTA_FILTER_ORIG_FLAGS = 1;
/** Which fields of a flow a filter compares (net/netfilter/nf_internals.h). */
const COMPARE = { PROTO_NUM: 8, DST_PORT: 32 } as const;
/** IPS_SEEN_REPLY (linux/netfilter/nf_conntrack_common.h), in network byte order as nfnetlink has all numbers. */
const SEEN_REPLY = 2 << 24;
const NUMBER = { tcp: 6, udp: 17, sctp: 132 } as const;
/** struct nfgenmsg: family, version, resource. */
const HEADER = 4;
const NOTHING = Buffer.alloc(0);
const RAW = "latin1";
/**
 * Ports that are asked for one by one: each takes the kernel some 10 ms, and all of UDP may be hundreds of thousands of
 * flows.
 */
const PORTS_LISTED_SINGLY = 8;
/** Milliseconds that the flows of a container that goes may stay: many go at once. */
const LEFT_MS = 5;
/** The same for what has crossed borders: one network's rules are put right after the other's. */
const STRAYS_MS = 200;

/** Where clients send to. */
export interface ServedPort {
  readonly protocol: keyof typeof NUMBER;
  /** Bare; `0.0.0.0` or `::` for every address of the host. */
  readonly address: string;
  readonly port: number;
}

/** A network's border, and what may cross it. */
export interface Border {
  /** Network address with prefix length. */
  readonly subnet: string;
  /** Nothing may. Else whatever does is translated, but for what the host itself has to do with. */
  readonly closed: boolean;
}

/** An address as the kernel has it, a character for each byte: there may be hundreds of thousands of flows. */
type Raw = string;

/** A flow as the kernel lists it. */
interface Flow {
  readonly protocol: number;
  /** Where its first packet came from. */
  readonly source: Raw;
  /** Where that was sent to. */
  readonly address: Raw;
  readonly port: number;
  /** Those who speak in it. */
  readonly ends: readonly Raw[];
  readonly answered: boolean;
  readonly translated: boolean;
  readonly message: Buffer;
}

/** What a look at the flows of a family is for. */
interface Unwanted {
  readonly ports: ServedPort[];
  /** Bare. */
  readonly ends: string[];
  readonly borders: Border[];
}

/**
 * Makes the kernel forget flows, so that their next packet is looked at anew. A flow is translated as its first packet
 * was: a client that never stops sending UDP stays with the container that had the port before; one whose first packet
 * of TCP came when a port was taken, but not translated yet, never gets an answer however often it tries; whoever
 * had to do with a container speaks to the next one that has its address; and what has crossed a network's border while
 * somebody had flushed the rules goes on doing so, or on trying.
 *
 * They are listed and picked out here. The kernel itself would delete by port alone, and so the flows of everybody that
 * merely pass through the host to another machine's port: by address its filter cannot tell what is the host's, and for
 * IPv6 it compares the wrong way round (it picks those that differ; seen on 6.18).
 */
export class Conntrack {
  readonly #isLocal: (address: string) => Promise<boolean>;
  readonly #socket = new NetlinkSocket(Protocol.NETFILTER);
  /**
   * What the next look is for. One takes the kernel some 10 ms, however few flows there are, so there is one for all
   * who wait.
   */
  #next: (Unwanted & { readonly done: Promise<void> }) | undefined;
  #last: Promise<void> = Promise.resolve();
  /** Bare addresses whose flows are to be forgotten, but nobody has begun to. */
  readonly #left = new Set<string>();
  /** Those whose flows are being forgotten, and when that is done. */
  readonly #going = new Map<string, Promise<void>>();
  #timer: NodeJS.Timeout | undefined;
  /** What was crossed, by its subnet, while nobody has looked. */
  readonly #crossed = new Map<string, Border>();
  #straysTimer: NodeJS.Timeout | undefined;

  /** @param isLocal whether a bare address is the host's own */
  constructor(isLocal: (address: string) => Promise<boolean>) {
    this.#isLocal = isLocal;
  }

  /**
   * Forgets the flows to these ports: of UDP whoever answers them, else what nobody has answered. There being none is
   * success.
   */
  async forget(ports: readonly ServedPort[]): Promise<void> {
    if (ports.length > 0) await this.#with({ ports });
  }

  /** Forgets, in a moment, what has crossed borders and should not have, as it did. */
  forgetStrays(borders: readonly Border[]): void {
    for (const border of borders) this.#crossed.set(border.subnet, border);
    this.#straysTimer ??= setTimeout(() => {
      this.#straysTimer = undefined;
      const crossed = [...this.#crossed.values()];
      this.#crossed.clear();
      // What fails the kernel forgets some time anyway.
      this.#with({ borders: crossed }).catch(() => undefined);
    }, STRAYS_MS).unref();
  }

  /**
   * Forgets the flows from and to bare addresses, translated or not. That can wait, and goes with what comes in a
   * moment; who gives one of them to somebody else waits for {@link forgotten}.
   */
  forgetSoon(ends: readonly string[]): void {
    for (const end of ends) this.#left.add(end);
    if (ends.length === 0) return;
    this.#timer ??= setTimeout(() => {
      this.#forgetLeft();
    }, LEFT_MS).unref();
  }

  /** Waits until none of these bare addresses is in a flow that is to be forgotten. */
  async forgotten(ends: readonly string[]): Promise<void> {
    if (ends.some((end) => this.#left.has(end))) this.#forgetLeft();
    await Promise.all(ends.flatMap((end) => this.#going.get(end) ?? []));
  }

  /** Forgets what is still to be forgotten, and closes. */
  async close(): Promise<void> {
    clearTimeout(this.#straysTimer);
    if (this.#left.size > 0) this.#forgetLeft();
    await this.#last;
    this.#socket.close();
  }

  #forgetLeft(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const ends = [...this.#left];
    this.#left.clear();
    // What fails the kernel forgets some time anyway.
    const gone = this.#with({ ends })
      .catch(() => undefined)
      .then(() => {
        for (const end of ends) if (this.#going.get(end) === gone) this.#going.delete(end);
      });
    for (const end of ends) this.#going.set(end, gone);
  }

  #with({
    ports = [],
    ends = [],
    borders = [],
  }: { readonly [K in keyof Unwanted]?: Readonly<Unwanted[K]> }): Promise<void> {
    this.#next ??= this.#queue();
    this.#next.ports.push(...ports);
    this.#next.ends.push(...ends);
    this.#next.borders.push(...borders);
    return this.#next.done;
  }

  #queue(): Unwanted & { done: Promise<void> } {
    const unwanted: Unwanted = { ports: [], ends: [], borders: [] };
    const done = this.#last.then(() => {
      this.#next = undefined;
      return this.#forgetNow(unwanted);
    });
    this.#last = done.catch(() => undefined);
    return { ...unwanted, done };
  }

  async #forgetNow({ ports, ends, borders }: Unwanted): Promise<void> {
    for (const family of FAMILIES) {
      const isOf = (address: string) => parseIp(address).family === family;
      const own = {
        ports: ports.filter(({ address }) => isOf(address)),
        ends: ends.filter(isOf),
        borders: borders.filter(({ subnet }) => isOf(bare(subnet))),
      };
      // As on a host that has just started.
      const isIdle = readSysctl("net/netfilter/nf_conntrack_count") === "0";
      if (Object.values(own).some(({ length }) => length > 0) && !isIdle) await this.#forgetOf(family, own);
    }
  }

  async #forgetOf(family: Family, unwanted: Unwanted): Promise<void> {
    const { ports, ends, borders } = unwanted;
    const lists = ends.length + borders.length > 0 ? [allOf(family)] : listsOf(family, ports);
    const charged = await this.#charged(lists, chargeOf(family, unwanted));
    const local = await this.#localOf(charged.flatMap(({ address }) => address ?? []));
    const meant = charged.filter(
      ({ address, local: mustBe }) => address === undefined || local.has(address) === mustBe,
    );
    const names = meant.map(({ flow }) => nameOf(flow.message));
    await unlessGone(this.#socket.requestEach("conntrack -D", CT_DELETE, names));
  }

  /** The flows in these lists that are unwanted, and why. */
  async #charged(
    lists: readonly Buffer[],
    chargeOn: (flow: Flow) => Charge | undefined,
  ): Promise<(Charge & { readonly flow: Flow })[]> {
    const charged: (Charge & { readonly flow: Flow })[] = [];
    const keep = ({ data }: NetlinkMessage) => {
      const flow = parseFlow(data);
      const charge = flow && chargeOn(flow);
      if (charge) charged.push({ flow, ...charge });
      return false;
    };
    for (const list of lists) await unlessGone(this.#socket.dump("conntrack -L", CT_GET, list, keep));
    return charged;
  }

  /** Those of the addresses that are the host's. */
  async #localOf(all: readonly Raw[]): Promise<Set<Raw>> {
    const addresses = [...new Set(all)];
    const are = await Promise.all(addresses.map((raw) => this.#isLocal(formatIp(Buffer.from(raw, RAW)))));
    return new Set(addresses.filter((_, index) => are[index]));
  }
}

/** Why a flow is unwanted: if an address is the host's, or if it is not. Without one it is whatever that is. */
interface Charge {
  readonly address?: Raw;
  readonly local?: boolean;
}

/** Tells why a flow of a family is unwanted, if it is. */
function chargeOf(family: Family, { ports, ends, borders }: Unwanted): (flow: Flow) => Charge | undefined {
  const gone = new Set(ends.map(rawOf));
  const asked = new Set(
    ports.map(({ protocol, address, port }) => keyOf(NUMBER[protocol], rawOf(address), port)),
  );
  const any = rawOf(UNSPECIFIED[family]);
  const insides = borders.map(({ subnet, closed }) => ({ isInside: insideOf(subnet), closed }));
  const isFor = ({ protocol, answered, port }: Flow, address: Raw) =>
    (protocol === NUMBER.udp || !answered) && asked.has(keyOf(protocol, address, port));
  return (flow) => {
    const { ends, source, address, translated } = flow;
    if (ends.some((end) => gone.has(end)) || isFor(flow, address)) return {};
    if (insides.some(({ isInside, closed }) => closed && ends.some(isInside))) return {};
    if (isFor(flow, any)) return { address, local: true };
    const crossed = translated
      ? undefined
      : insides.find(({ isInside }) => isInside(source) !== isInside(address));
    return crossed && { address: crossed.isInside(source) ? address : source, local: false };
  };
}

function rawOf(address: string): Raw {
  return ipBytes(address).toString(RAW);
}

/** Tells whether an address is in a subnet. */
function insideOf(subnet: string): (address: Raw) => boolean {
  const { address, length } = parseCidr(subnet);
  const network = rawOf(address);
  const whole = length >> 3;
  const rest = 8 - (length & 7);
  const start = network.slice(0, whole);
  return (one) =>
    one.startsWith(start) &&
    (rest === 8 || one.charCodeAt(whole) >> rest === network.charCodeAt(whole) >> rest);
}

function keyOf(protocol: number, address: Raw, port: number): string {
  return `${protocol} ${address} ${port}`;
}

/** Waits for the kernel; that there is no such flow any more, or it does not show them, is no failure. */
async function unlessGone(answers: Promise<unknown>): Promise<void> {
  try {
    await answers;
  } catch (error) {
    if (!isErrno(error, "ENOENT", "EINVAL")) throw error;
  }
}

/** Asks for all flows of a family. */
function allOf(family: Family): Buffer {
  return Buffer.from([AF[family], 0, 0, 0]);
}

/** Asks for the flows to ports; of UDP for others as well, where there are too many to ask for each. */
function listsOf(family: Family, ports: readonly ServedPort[]): Buffer[] {
  const numbersOf = (wanted: ServedPort["protocol"]) => [
    ...new Set(ports.flatMap(({ protocol, port }) => (protocol === wanted ? port : []))),
  ];
  const udp = numbersOf("udp");
  const isMuch = udp.length > PORTS_LISTED_SINGLY;
  return [
    ...(isMuch ? [listOf(family, "udp")] : udp.map((port) => listOf(family, "udp", port))),
    ...(["tcp", "sctp"] as const)
      .filter((protocol) => numbersOf(protocol).length > 0)
      .map((protocol) => Buffer.concat([listOf(family, protocol), UNANSWERED])),
  ];
}

/** Asks for a family's flows of a protocol, to one port or to all. Before Linux 5.8 the kernel lists all there are. */
function listOf(family: Family, protocol: ServedPort["protocol"], port?: number): Buffer {
  const number = Buffer.alloc(2);
  number.writeUInt16BE(port ?? 0);
  const proto = nest(CTA_TUPLE.PROTO, u8(CTA_PROTO.NUM, NUMBER[protocol]), bytes(CTA_PROTO.DST_PORT, number));
  const compare = COMPARE.PROTO_NUM | (port === undefined ? 0 : COMPARE.DST_PORT);
  return Buffer.concat([
    allOf(family),
    nest(CTA.TUPLE_ORIG, proto),
    nest(CTA.FILTER, u32(CTA_FILTER_ORIG_FLAGS, compare)),
  ]);
}

/** Leaves out of a list what has been answered; before Linux 5.15 nothing. */
const UNANSWERED = Buffer.concat([u32(CTA.STATUS, 0), u32(CTA.STATUS_MASK, SEEN_REPLY)]);

/** The flow that a message is about; undefined for what has no addresses. */
function parseFlow(message: Buffer): Flow | undefined {
  const found = new Attributes(message, HEADER);
  const family = message[0] === AF[6] ? 6 : 4;
  const original = found.nest(CTA.TUPLE_ORIG);
  const proto = original.nest(CTA_TUPLE.PROTO);
  const [source, address] = addressesOf(original, family);
  const [replySource, replyAddress] = addressesOf(found.nest(CTA.TUPLE_REPLY), family);
  if (source === undefined || address === undefined || replySource === undefined) return undefined;
  return {
    protocol: proto.u8(CTA_PROTO.NUM) ?? 0,
    source,
    address,
    port: proto.get(CTA_PROTO.DST_PORT)?.readUInt16BE() ?? 0,
    ends: [source, address, replySource],
    answered: (found.u32(CTA.STATUS) & SEEN_REPLY) !== 0,
    translated: replySource !== address || replyAddress !== source,
    message,
  };
}

/** Source and destination of a tuple. */
function addressesOf(tuple: Attributes, family: Family): (Raw | undefined)[] {
  const ip = tuple.nest(CTA_TUPLE.IP);
  return [CTA_IP[family].SRC, CTA_IP[family].DST].map((type) => ip.get(type)?.toString(RAW));
}

/** What tells the flow that a message is about from all others. */
function nameOf(message: Buffer): Buffer {
  const found = new Attributes(message, HEADER);
  return Buffer.concat([
    message.subarray(0, HEADER),
    nest(CTA.TUPLE_ORIG, found.get(CTA.TUPLE_ORIG) ?? NOTHING),
    ...[CTA.ID, CTA.ZONE].flatMap((type) => {
      const value = found.get(type);
      return value ? bytes(type, value) : [];
    }),
  ]);
}
