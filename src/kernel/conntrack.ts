import { Protocol } from "netlink";
import { isErrno } from "../errors.ts";
import { FAMILIES, type Family, UNSPECIFIED, formatIp, parseIp } from "../ip.ts";
import { type NetlinkMessage, attributes, bytes, nest, u32, u8 } from "./netlink-message.ts";
import { NetlinkSocket } from "./netlink-socket.ts";
import { readSysctl } from "./sysctl.ts";

/** linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h. */
const CT_GET = (1 << 8) | 1;
const CT_DELETE = (1 << 8) | 2;
const CTA = { TUPLE_ORIG: 1, ID: 12, ZONE: 18, FILTER: 25 } as const;
const CTA_TUPLE = { IP: 1, PROTO: 2 } as const;
const CTA_IP_DST = { 4: 2, 6: 4 } as const;
const CTA_PROTO = { NUM: 1, DST_PORT: 3 } as const;
const CTA_FILTER_ORIG_FLAGS = 1;
/** Which fields of a flow a filter compares (net/netfilter/nf_internals.h). */
const COMPARE = { PROTO_NUM: 8, DST_PORT: 32 } as const;
const UDP = 17;
const AF = { 4: 2, 6: 10 } as const;
/** struct nfgenmsg: family, version, resource. */
const HEADER = 4;
const NOTHING = Buffer.alloc(0);
/** Ports that are asked for one by one: each takes the kernel some 10 ms, and all of UDP may be hundreds of thousands of flows. */
const PORTS_APART = 8;

/** Where clients send UDP to. */
export interface UdpPort {
  /** Bare; `0.0.0.0` or `::` for every address of the host. */
  readonly address: string;
  readonly port: number;
}

/** A flow as the kernel lists it. */
interface Flow {
  /** Bare address that its first packet was sent to. */
  readonly address: string;
  readonly port: number;
  /** What tells it from all others. */
  readonly name: Buffer;
}

/**
 * Makes the kernel forget flows, so that their next packet is looked at anew: without this a client that
 * never stops sending UDP stays with the container that had the port before.
 *
 * They are listed and picked out here. The kernel itself would delete by port alone, and so the flows of everybody that
 * merely pass through the host to another machine's port: by address its filter cannot tell what is the host's, and for
 * IPv6 it compares the wrong way round (it picks those that differ; seen on 6.18).
 */
export class Conntrack {
  readonly #isLocal: (address: string) => Promise<boolean>;
  readonly #socket = new NetlinkSocket(Protocol.NETFILTER);
  /** What the next look is for. One takes the kernel some 10 ms, however few flows there are, so there is one for all who wait. */
  #next: { readonly ports: UdpPort[]; readonly done: Promise<void> } | undefined;
  #last: Promise<void> = Promise.resolve();

  /** @param isLocal whether a bare address is the host's own */
  constructor(isLocal: (address: string) => Promise<boolean>) {
    this.#isLocal = isLocal;
  }

  /** Forgets the flows to these ports, whoever answers them; there being none is success. */
  async forget(ports: readonly UdpPort[]): Promise<void> {
    if (ports.length === 0) return;
    this.#next ??= this.#queue();
    this.#next.ports.push(...ports);
    await this.#next.done;
  }

  close(): void {
    this.#socket.close();
  }

  #queue(): { ports: UdpPort[]; done: Promise<void> } {
    const ports: UdpPort[] = [];
    const done = this.#last.then(() => {
      this.#next = undefined;
      return this.#forgetNow(ports);
    });
    this.#last = done.catch(() => undefined);
    return { ports, done };
  }

  async #forgetNow(ports: readonly UdpPort[]): Promise<void> {
    for (const family of FAMILIES) {
      const own = ports.filter(({ address }) => parseIp(address).family === family);
      // As on a host that has just started.
      const isIdle = readSysctl("net/netfilter/nf_conntrack_count") === "0";
      if (own.length > 0 && !isIdle) await this.#forgetOf(family, own);
    }
  }

  async #forgetOf(family: Family, ports: readonly UdpPort[]): Promise<void> {
    const asked = new Set(ports.map(({ address, port }) => `${parseIp(address).address} ${port}`));
    const flows = await this.#flows(family, [...new Set(ports.map(({ port }) => port))]);
    const isForAny = ({ port }: Flow) => asked.has(`${UNSPECIFIED[family]} ${port}`);
    const local = await this.#localOf(flows.filter(isForAny));
    const meant = flows.filter(
      (flow) => asked.has(`${flow.address} ${flow.port}`) || (isForAny(flow) && local.has(flow.address)),
    );
    await Promise.all(
      meant.map(({ name }) => known(this.#socket.request("conntrack -D", CT_DELETE, 0, name))),
    );
  }

  /** The flows of UDP to these ports; to others as well, where there are too many to ask for each. */
  async #flows(family: Family, ports: readonly number[]): Promise<Flow[]> {
    const lists = ports.length <= PORTS_APART ? ports.map((port) => listOf(family, port)) : [listOf(family)];
    const flows: Flow[] = [];
    for (const list of lists)
      for (const answer of await known(this.#socket.dump("conntrack -L", CT_GET, list)))
        flows.push(...flowsIn(answer));
    return flows;
  }

  /** Those of the flows' destinations that are the host's. */
  async #localOf(flows: readonly Flow[]): Promise<Set<string>> {
    const addresses = [...new Set(flows.map(({ address }) => address))];
    const are = await Promise.all(addresses.map(this.#isLocal));
    return new Set(addresses.filter((_, index) => are[index]));
  }
}

/** What the kernel answers; nothing where there is no such flow any more, or it does not show them. */
async function known(answers: Promise<NetlinkMessage[]>): Promise<NetlinkMessage[]> {
  try {
    return await answers;
  } catch (error) {
    if (!isErrno(error, "ENOENT", "EINVAL")) throw error;
    return [];
  }
}

/** Asks for a family's flows of UDP, to one port or to all. Before Linux 5.8 the kernel lists all there are. */
function listOf(family: Family, port?: number): Buffer {
  const number = Buffer.alloc(2);
  number.writeUInt16BE(port ?? 0);
  const proto = nest(CTA_TUPLE.PROTO, u8(CTA_PROTO.NUM, UDP), bytes(CTA_PROTO.DST_PORT, number));
  const compare = COMPARE.PROTO_NUM | (port === undefined ? 0 : COMPARE.DST_PORT);
  return Buffer.concat([
    Buffer.from([AF[family], 0, 0, 0]),
    nest(CTA.TUPLE_ORIG, proto),
    nest(CTA.FILTER, u32(CTA_FILTER_ORIG_FLAGS, compare)),
  ]);
}

/** The flow that a message is about, if it is one of UDP. */
function flowsIn({ data }: NetlinkMessage): Flow[] {
  const found = attributes(data, HEADER);
  const original = found.get(CTA.TUPLE_ORIG) ?? NOTHING;
  const tuple = attributes(original);
  const proto = attributes(tuple.get(CTA_TUPLE.PROTO) ?? NOTHING);
  if (proto.get(CTA_PROTO.NUM)?.[0] !== UDP) return [];
  const family = data[0] === AF[6] ? 6 : 4;
  const address = attributes(tuple.get(CTA_TUPLE.IP) ?? NOTHING).get(CTA_IP_DST[family]);
  const port = proto.get(CTA_PROTO.DST_PORT)?.readUInt16BE();
  if (!address || port === undefined) return [];
  const name = Buffer.concat([
    data.subarray(0, HEADER),
    nest(CTA.TUPLE_ORIG, original),
    ...[CTA.ID, CTA.ZONE].flatMap((type) => {
      const value = found.get(type);
      return value ? bytes(type, value) : [];
    }),
  ]);
  return [{ address: formatIp(address), port, name }];
}
