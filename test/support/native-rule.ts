import { Protocol, RawNetlinkSocket } from "netlink";
import { nest, text } from "../../src/kernel/netlink-message.ts";

const NFPROTO = { 4: 2, 6: 10 } as const;
/** linux/netfilter/nfnetlink.h and nf_tables.h. */
const BATCH_BEGIN = 0x10;
const BATCH_END = 0x11;
const NFNL_SUBSYS_NFTABLES = 10;
const NEWRULE = (NFNL_SUBSYS_NFTABLES << 8) | 6;
const NLM_F = { REQUEST: 1, ACK: 4, CREATE: 0x400, APPEND: 0x800 } as const;
const NFTA_RULE = { TABLE: 1, CHAIN: 2, EXPRESSIONS: 4 } as const;
const NFTA_LIST_ELEM = 1;
const NFTA_EXPR_NAME = 1;

/** `nft add rule`, with an expression (`masq`, `notrack`) that iptables does not know, to a chain that is there. */
export async function addNativeRule(
  family: 4 | 6,
  table: string,
  chain: string,
  expression: string,
): Promise<void> {
  const rule = Buffer.concat([
    text(NFTA_RULE.TABLE, table),
    text(NFTA_RULE.CHAIN, chain),
    nest(NFTA_RULE.EXPRESSIONS, nest(NFTA_LIST_ELEM, text(NFTA_EXPR_NAME, expression))),
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
    if (errno !== 0) throw new Error(`nft add rule ${table} ${chain} ${expression}: ${String(-errno)}`);
  } finally {
    socket.close();
  }
}

function message(type: number, flags: number, header: readonly number[], payload = Buffer.alloc(0)): Buffer {
  const out = Buffer.concat([Buffer.alloc(16), Buffer.from(header), payload]);
  out.writeUInt32LE(out.length, 0);
  out.writeUInt16LE(type, 4);
  out.writeUInt16LE(flags, 6);
  return out;
}
