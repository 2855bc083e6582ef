import { Protocol } from "../netlink/binding.ts";
import type { Family } from "../../ip.ts";
import { AF } from "../libc.ts";
import { Attributes } from "../netlink/message.ts";
import { NetlinkSocket } from "../netlink/socket.ts";

/** linux/netfilter/nfnetlink.h and nf_tables.h. */
const GETCHAIN = (10 << 8) | 4;
const NFTA_CHAIN = { TABLE: 1, NAME: 3 } as const;
/** struct nfgenmsg: family, version, resource. */
const HEADER = 4;

/**
 * Names of the chains of a table of nf_tables, whoever made them.
 *
 * @throws {KernelError} if the kernel does not tell
 */
export async function chainsOf(family: Family, table: string): Promise<string[]> {
  const socket = new NetlinkSocket(Protocol.NETFILTER);
  try {
    const everything = Buffer.from([AF[family], 0, 0, 0]);
    const answers = await socket.dump("nft list chains", GETCHAIN, everything);
    return answers
      .map(({ data }) => new Attributes(data, HEADER))
      .filter((chain) => chain.text(NFTA_CHAIN.TABLE) === table)
      .map((chain) => chain.text(NFTA_CHAIN.NAME));
  } finally {
    socket.close();
  }
}
