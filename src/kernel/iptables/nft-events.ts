import { Protocol } from "../netlink/binding.ts";
import { subscribe } from "../netlink/multicast.ts";

/** Multicast group that announces every committed change to nf_tables (linux/netfilter/nfnetlink.h). */
const NFNLGRP_NFTABLES = 7;
/** The announcement that closes a commit says nothing else than that (NFT_MSG_NEWGEN, linux/netfilter/nf_tables.h). */
const NEWGEN = (10 << 8) | 15;

/**
 * Calls back after a change to the rules of nf_tables, which is where the usual iptables keeps its own.
 *
 * @param own processes whose changes are not told: a socket is named after the process that opened it (netlink(7))
 * @returns stops it
 */
export function watchNftRules(own: () => ReadonlySet<number>, onChange: () => void): () => void {
  return subscribe(Protocol.NETFILTER, [NFNLGRP_NFTABLES], {
    onMessages: (messages) => {
      const mine = own();
      if (messages.some(({ type, port }) => type !== NEWGEN && !mine.has(port))) onChange();
    },
    onLoss: onChange,
  });
}
