import type { Family } from "../../ip.ts";
import { AF } from "../libc.ts";

/** Bytes of struct nfgenmsg, the head of netfilter's messages: family, version, resource (linux/netfilter/nfnetlink.h). */
export const NFGENMSG = 4;

/** That head, of one family or for what has none. */
export function nfgenmsg(family?: Family): Buffer {
  const head = Buffer.alloc(NFGENMSG);
  if (family) head.writeUInt8(AF[family], 0);
  return head;
}
