import { type Family, LINK_LOCAL } from "../ip.ts";
import { CHAINS, NOT_PUBLISHED } from "./layout.ts";
import { type Chain, type Rule, ruleMaker } from "./rule.ts";

/**
 * The rules of the host's own link S beside the containers of a macvlan network, which hears the whole LAN.
 *
 *   from whom the host does not reach by S → drop    everybody but the network's containers
 *   fe80::/10 to all the neighbours        → drop    solicitations and advertisements of routers
 *   -i S, or -o S, for another link        → drop    the host is no way to other networks, nor from them; nor are
 *                                                    there known connections
 *
 * S has the host's IPv6 address, so that it answers the containers' solicitations. Without these rules it
 * would answer the LAN's as well, which then would have the MAC of a link that goes with the last container. For
 * IPv4 the kernel has a setting for that (arp_filter).
 */
export function shimRules(shim: string, family: Family, comment: string): Rule[] {
  const rule = ruleMaker({ family, comment });
  const drop = (chain: Chain, match: string) => rule(chain, match, "DROP");
  return [
    drop(CHAINS.arriving, `-i ${shim} -m rpfilter --invert`),
    ...(family === 6 ? [drop(CHAINS.arriving, `-s ${LINK_LOCAL} -d ff00::/8 -i ${shim}`)] : []),
    ...[CHAINS.bridges, CHAINS.known].flatMap((chain) => [
      drop(chain, `-i ${shim} ${NOT_PUBLISHED}`),
      drop(chain, `-o ${shim} ${NOT_PUBLISHED}`),
    ]),
  ];
}
