import { Protocol, RawNetlinkSocket } from "netlink";
import { bytes, nest, text } from "../../src/kernel/netlink/message.ts";

const NFPROTO = { 4: 2, 6: 10 } as const;
/** linux/netfilter/nfnetlink.h and nf_tables.h. */
const BATCH_BEGIN = 0x10;
const BATCH_END = 0x11;
const NFNL_SUBSYS_NFTABLES = 10;
const NEWRULE = (NFNL_SUBSYS_NFTABLES << 8) | 6;
const NLM_F = { REQUEST: 1, ACK: 4, CREATE: 0x400, APPEND: 0x800 } as const;
const NFTA_RULE = { TABLE: 1, CHAIN: 2, EXPRESSIONS: 4 } as const;
const NFTA_LIST_ELEM = 1;
const NFTA_EXPR = { NAME: 1, DATA: 2 } as const;
const NFTA_META = { DREG: 1, KEY: 2 } as const;
const NFTA_CMP = { SREG: 1, OP: 2, DATA: 3 } as const;
const NFTA_DATA_VALUE = 1;
const NFT_REG_1 = 1;
const NFT_META_SKUID = 10;
const NFT_CMP_EQ = 0;

/**
 * What a rule is made of. iptables-save shows nothing of a table that has one of the first two, and ends in the midst of
 * one that has the last.
 */
const EXPRESSIONS = {
  masq: [expression("masq")],
  notrack: [expression("notrack")],
  "meta skuid 1000": [
    expression("meta", number(NFTA_META.KEY, NFT_META_SKUID), number(NFTA_META.DREG, NFT_REG_1)),
    expression(
      "cmp",
      number(NFTA_CMP.SREG, NFT_REG_1),
      number(NFTA_CMP.OP, NFT_CMP_EQ),
      nest(NFTA_CMP.DATA, bytes(NFTA_DATA_VALUE, Buffer.from(Uint32Array.of(1000).buffer))),
    ),
  ],
} as const;

/** `nft add rule`, with what iptables does not know, to a chain that is there. */
export async function addNativeRule(
  family: 4 | 6,
  table: string,
  chain: string,
  what: keyof typeof EXPRESSIONS,
): Promise<void> {
  const rule = Buffer.concat([
    text(NFTA_RULE.TABLE, table),
    text(NFTA_RULE.CHAIN, chain),
    nest(NFTA_RULE.EXPRESSIONS, ...EXPRESSIONS[what]),
  ]);
  const batch = [
    message(BATCH_BEGIN, NLM_F.REQUEST, [0, 0, 0, NFNL_SUBSYS_NFTABLES]),
    message(
      NEWRULE,
      NLM_F.REQUEST | NLM_F.ACK | NLM_F.CREATE | NLM_F.APPEND,
      [NFPROTO[family], 0, 0, 0],
      rule,
    ),
    message(BATCH_END, NLM_F.REQUEST, [0, 0, 0, NFNL_SUBSYS_NFTABLES]),
  ];
  const socket = new RawNetlinkSocket(Protocol.NETFILTER);
  try {
    const answered = new Promise<Buffer>((resolve) => socket.once("message", resolve));
    socket.send(Buffer.concat(batch));
    const errno = (await answered).readInt32LE(16);
    if (errno !== 0) throw new Error(`nft add rule ${table} ${chain} ${what}: ${String(-errno)}`);
  } finally {
    socket.close();
  }
}

function expression(name: string, ...data: readonly Buffer[]): Buffer {
  const parts = data.length > 0 ? [nest(NFTA_EXPR.DATA, ...data)] : [];
  return nest(NFTA_LIST_ELEM, text(NFTA_EXPR.NAME, name), ...parts);
}

/** Attribute of a 32-bit number, which nf_tables has in network byte order. */
function number(type: number, value: number): Buffer {
  const buffer = Buffer.alloc(4);
  buffer.writeUInt32BE(value);
  return bytes(type, buffer);
}

function message(type: number, flags: number, header: readonly number[], payload = Buffer.alloc(0)): Buffer {
  const out = Buffer.concat([Buffer.alloc(16), Buffer.from(header), payload]);
  out.writeUInt32LE(out.length, 0);
  out.writeUInt16LE(type, 4);
  out.writeUInt16LE(flags, 6);
  return out;
}
