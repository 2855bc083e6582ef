import { KernelError } from "../../errors.ts";
import { Protocol } from "../netlink/binding.ts";
import { Attributes } from "../netlink/message.ts";
import { NetlinkSocket } from "../netlink/socket.ts";

/** linux/netfilter/nfnetlink.h and nf_tables.h. */
const GETGEN = (10 << 8) | 16;
const NFTA_GEN_ID = 1;
/** struct nfgenmsg: family, version, resource. */
const HEADER = 4;
const COMMAND = "nft list generation";

/**
 * What is another number after each change to the rules of nf_tables.
 *
 * @throws {KernelError} if the kernel does not tell
 */
export async function nftGeneration(): Promise<number> {
  const socket = new NetlinkSocket(Protocol.NETFILTER);
  try {
    const [answer] = await socket.request(COMMAND, GETGEN, 0, Buffer.alloc(HEADER));
    const generation = answer && new Attributes(answer.data, HEADER).get(NFTA_GEN_ID);
    if (!generation)
      throw new KernelError(COMMAND, "", "the kernel does not say how often its rules have changed");
    return generation.readUInt32BE();
  } finally {
    socket.close();
  }
}
