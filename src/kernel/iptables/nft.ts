import { KernelError } from "../../errors.ts";
import type { Family } from "../../ip.ts";
import { Protocol } from "../netlink/binding.ts";
import { Attributes } from "../netlink/message.ts";
import { NFGENMSG, nfgenmsg } from "../netlink/nfnetlink.ts";
import { NetlinkSocket } from "../netlink/socket.ts";

/** linux/netfilter/nfnetlink.h and nf_tables.h. */
const GETCHAIN = (10 << 8) | 4;
const GETGEN = (10 << 8) | 16;
const NFTA_CHAIN = { TABLE: 1, NAME: 3 } as const;
const NFTA_GEN_ID = 1;

/**
 * Names of the chains of a table of nf_tables, whoever made them.
 *
 * @throws {KernelError} if the kernel does not tell
 */
export async function chainsOf(family: Family, table: string): Promise<string[]> {
  const everything = nfgenmsg(family);
  return (await asking((socket) => socket.dump("nft list chains", GETCHAIN, everything)))
    .map(({ data }) => new Attributes(data, NFGENMSG))
    .filter((chain) => chain.text(NFTA_CHAIN.TABLE) === table)
    .map((chain) => chain.text(NFTA_CHAIN.NAME));
}

/**
 * What is another number after each change to the rules of nf_tables.
 *
 * @throws {KernelError} if the kernel does not tell
 */
export async function nftGeneration(): Promise<number> {
  const command = "nft list generation";
  const [answer] = await asking((socket) => socket.request(command, GETGEN, 0, nfgenmsg()));
  const number = answer && new Attributes(answer.data, NFGENMSG).get(NFTA_GEN_ID);
  if (!number) throw new KernelError(command, "", "the kernel does not say how often its rules have changed");
  return number.readUInt32BE();
}

async function asking<T>(ask: (socket: NetlinkSocket) => Promise<T>): Promise<T> {
  const socket = new NetlinkSocket(Protocol.NETFILTER);
  try {
    return await ask(socket);
  } finally {
    socket.close();
  }
}
