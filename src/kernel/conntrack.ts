import { isErrno } from "../errors.ts";
import {
  FAMILIES,
  type Family,
  type RawIp,
  UNSPECIFIED,
  bare,
  formatRawIp,
  parseIp,
  rawIp,
  within,
} from "../ip.ts";
import { PROTOCOL_NUMBERS } from "../model.ts";
import { CT_DELETE, CT_GET, type Flow, type ServedPort, listsOf, nameOf, parseFlow } from "./flow.ts";
import { Protocol } from "./netlink/binding.ts";
import type { NetlinkMessage } from "./netlink/message.ts";
import { nfgenmsg } from "./netlink/nfnetlink.ts";
import { NetlinkSocket } from "./netlink/socket.ts";
import { readSysctl } from "./sysctl.ts";

/** Milliseconds that the flows of a container that goes may stay: many go at once. */
const LEFT_MS = 5;
/** The same for what has crossed borders: one network's rules are put right after the other's. */
const STRAYS_MS = 200;

/** A network's border, and what may cross it. */
export interface Border {
  /** Network address with prefix length. */
  readonly subnet: string;
  /** Nothing may. Else whatever does is translated, but for what the host itself has to do with. */
  readonly closed: boolean;
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
    // The head alone asks for all.
    const lists = ends.length + borders.length > 0 ? [nfgenmsg(family)] : listsOf(family, ports);
    const matching = await this.#matching(lists, matchOf(family, unwanted));
    const local = await this.#localOf(matching.flatMap(({ address }) => address ?? []));
    const meant = matching.filter(
      ({ address, local: mustBe }) => address === undefined || local.has(address) === mustBe,
    );
    const names = meant.map(({ flow }) => nameOf(flow.message));
    await unlessGone(this.#socket.requestEach("conntrack -D", CT_DELETE, names));
  }

  /** The flows in these lists that are unwanted, and why. */
  async #matching(
    lists: readonly Buffer[],
    matches: (flow: Flow) => Match | undefined,
  ): Promise<(Match & { readonly flow: Flow })[]> {
    const matching: (Match & { readonly flow: Flow })[] = [];
    const keep = ({ data }: NetlinkMessage) => {
      const flow = parseFlow(data);
      const match = flow && matches(flow);
      if (match) matching.push({ flow, ...match });
      return false;
    };
    for (const list of lists) await unlessGone(this.#socket.dump("conntrack -L", CT_GET, list, keep));
    return matching;
  }

  /** Those of the addresses that are the host's. */
  async #localOf(all: readonly RawIp[]): Promise<Set<RawIp>> {
    const addresses = [...new Set(all)];
    const are = await Promise.all(addresses.map((raw) => this.#isLocal(formatRawIp(raw))));
    return new Set(addresses.filter((_, index) => are[index]));
  }
}

/** Why a flow is unwanted: if an address is the host's, or if it is not. Without one it is whatever that is. */
interface Match {
  readonly address?: RawIp;
  readonly local?: boolean;
}

/** Tells why a flow of a family is unwanted, if it is. */
function matchOf(family: Family, { ports, ends, borders }: Unwanted): (flow: Flow) => Match | undefined {
  const gone = new Set(ends.map(rawIp));
  const asked = new Set(
    ports.map(({ protocol, address, port }) => keyOf(PROTOCOL_NUMBERS[protocol], rawIp(address), port)),
  );
  const any = rawIp(UNSPECIFIED[family]);
  const insides = borders.map(({ subnet, closed }) => ({ isInside: within(subnet), closed }));
  const isFor = ({ protocol, answered, port }: Flow, address: RawIp) =>
    (protocol === PROTOCOL_NUMBERS.udp || !answered) && asked.has(keyOf(protocol, address, port));
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

function keyOf(protocol: number, address: RawIp, port: number): string {
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
