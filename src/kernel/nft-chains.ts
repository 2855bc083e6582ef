import { Protocol } from "netlink";
import { KernelError, reason } from "../errors.ts";
import type { Family } from "../ip.ts";
import { attributes, readText } from "./netlink-message.ts";
import { openSocket } from "./rtnetlink.ts";

/** linux/netfilter/nfnetlink.h and nf_tables.h. */
const GETCHAIN = (10 << 8) | 4;
const NFTA_CHAIN = { TABLE: 1, NAME: 3 } as const;
const NFPROTO = { 4: 2, 6: 10 } as const;
const NLM_F_DUMP = 0x300;
const NLMSG_ERROR = 2;
/** struct nfgenmsg: family, version, resource. */
const HEADER = 4;
const TIMEOUT_MS = 10_000;

/** Names of the chains of a table of nf_tables, whoever made them. */
export async function chainsOf(family: Family, table: string): Promise<string[]> {
  const socket = openSocket(Protocol.NETFILTER);
  try {
    const options = { flags: NLM_F_DUMP, checkError: false, timeout: TIMEOUT_MS };
    const [answers] = await socket.request(GETCHAIN, Buffer.from([NFPROTO[family], 0, 0, 0]), options);
    return answers
      .filter(({ type }) => type !== NLMSG_ERROR)
      .map(({ data }) => attributes(data, HEADER))
      .filter((chain) => readText(chain.get(NFTA_CHAIN.TABLE)) === table)
      .map((chain) => readText(chain.get(NFTA_CHAIN.NAME)));
  } catch (cause) {
    throw new KernelError("nft list chains", "", reason(cause), { cause });
  } finally {
    socket.close();
  }
}
