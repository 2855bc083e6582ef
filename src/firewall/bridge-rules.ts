import type { Family } from "../ip.ts";
import { ANY_BRIDGE, isBridgeName } from "../names.ts";
import { CHAINS, NOT_PUBLISHED, newFrom } from "./layout.ts";
import { returnRules } from "./port-rules.ts";
import { type MakeRule, type Rule, ruleMaker } from "./rule.ts";

/**
 * How the outside reaches a network, per family: `nat` hides it behind the host, `nat-unprotected` also lets
 * in whoever has a route to it, `routed` sends its own addresses and lets in only ICMP and published ports,
 * `isolated` has no address on the host at all.
 */
export type GatewayMode = "nat" | "nat-unprotected" | "routed" | "isolated";

/** What the rules of a bridge network depend on, for one family. */
export interface BridgeFacts {
  readonly family: Family;
  readonly bridge: string;
  /** Network addresses with prefix length. */
  readonly subnets: readonly string[];
  readonly internal: boolean;
  /** Whether its containers may talk to each other. */
  readonly icc: boolean;
  readonly masquerade: boolean;
  /** Address to masquerade as; absent: that of the link the packet leaves by. */
  readonly hostAddress?: string;
  readonly mode: GatewayMode;
  readonly comment: string;
}

/**
 * The rules of a bridge network B for one family. See layout.ts for where each chain stands.
 *
 *   always           -s subnet ! -i B → drop        it is not from there (but the gateway's own)
 *   a name of its own  -i B → TSNET-ENGINES         nor is anything of it from the engine's (the others together)
 *   internal         -i B ! -o B → drop             not even to what is open to everybody
 *   icc=false        -i B -o B → drop               by way of the gateway; the bridge's ports are isolated too
 *   to elsewhere     -i B ! -o B → TSNET-TO         not into other networks
 *   from elsewhere   ! -i B -o B → TSNET-INVITED    nat, routed: only answers and published ports
 *                    ! -i B -o B → TSNET-FROM       routed, nat-unprotected: not from other networks
 *   internal         ! -i B -o B → drop
 *                    -i B to the host → TSNET-RELAYED   nor by the daemon; and by no address but the gateway's
 *                                     → drop        with an address from elsewhere, where the host's answer would go
 *
 * and of connections that are known:
 *
 *   else             -i B ! -o B → drop             among networks: TSNET-APART
 *   a name of its own  -i B ! -o B → TSNET-TO       the others are dealt with together, for the sake of speed
 *                    ! -i B -o B → TSNET-FROM
 *                    -i B, -o B, and the others → drop
 *   internal         -i B ! -o B, ! -i B -o B → drop
 *   icc=false        -i B -o B → drop
 */
export function bridgeRules(network: BridgeFacts): Rule[] {
  const { family, bridge, internal, icc, mode } = network;
  const rule = ruleMaker(network);
  const rules = network.subnets.map((subnet) =>
    rule(CHAINS.forged, `-s ${subnet} ! -i ${bridge} -m addrtype ! --src-type LOCAL`, "DROP"),
  );

  rules.push(...apartRules(bridge, rule));
  if (!icc)
    for (const chain of [CHAINS.bridges, CHAINS.known])
      rules.push(rule(chain, `${within(bridge)} ${NOT_PUBLISHED}`, "DROP"));
  if (internal) return [...rules, ...internalRules(network, rule)];

  rules.push(rule(CHAINS.bridges, leaving(bridge), CHAINS.to.name));
  // Of the others TSNET-CLOSED drops what is new, and nothing that is known comes here.
  if (mode !== "nat" || !isBridgeName(bridge))
    rules.push(rule(CHAINS.to, `-o ${bridge} ${NOT_PUBLISHED}`, "DROP"));
  if (mode === "nat") {
    rules.push(rule(CHAINS.closed, entering(bridge), CHAINS.invited.name));
  } else {
    rules.push(rule(CHAINS.bridges, entering(bridge), CHAINS.from.name));
  }
  if (mode === "routed") {
    const icmp = family === 4 ? "-p icmp" : "-p ipv6-icmp";
    rules.push(
      rule(CHAINS.open, `-o ${bridge} ${icmp}`, "ACCEPT"),
      rule(CHAINS.closed, entering(bridge), CHAINS.invited.name),
    );
  }
  rules.push(
    rule(CHAINS.forward, `-i ${bridge}`, "ACCEPT"),
    rule(CHAINS.forward, `-o ${bridge}`, "ACCEPT"),
    ...returnRules(family, bridge, network.subnets, rule),
    ...masquerade(network, rule),
  );
  return rules;
}

const leaving = (bridge: string) => `-i ${bridge} ! -o ${bridge}`;
const entering = (bridge: string) => `! -i ${bridge} -o ${bridge}`;
const within = (bridge: string) => `-i ${bridge} -o ${bridge}`;

function internalRules({ family, bridge, mode }: BridgeFacts, rule: MakeRule): Rule[] {
  return [
    rule(CHAINS.bridges, leaving(bridge), "DROP"),
    rule(CHAINS.closed, entering(bridge), "DROP"),
    rule(CHAINS.known, leaving(bridge), "DROP"),
    rule(CHAINS.known, entering(bridge), "DROP"),
    ...(mode === "isolated" ? [] : TO_HOST[family]).map((type) =>
      // No way leads by the bridge to whom it says it is from.
      rule(CHAINS.arriving, `-i ${bridge} -m addrtype ${type} -m rpfilter --invert`, "DROP"),
    ),
    rule(
      CHAINS.input,
      `-i ${bridge} -m addrtype --dst-type LOCAL -m addrtype ! --dst-type LOCAL --limit-iface-in`,
      "DROP",
    ),
    rule(CHAINS.input, newFrom(bridge), CHAINS.relayed.name),
    rule(CHAINS.forward, within(bridge), "ACCEPT"),
  ];
}

/** To the host itself: to IPv6 that is UNICAST as well (xt_addrtype.c). */
const TO_HOST = {
  4: ["! --dst-type UNICAST"],
  6: ["--dst-type LOCAL", "--dst-type MULTICAST"],
} as const;

/** What keeps known connections of a bridge apart from other networks', and those of one with a name of its own from the engine's. */
function apartRules(bridge: string, rule: MakeRule): Rule[] {
  if (isBridgeName(bridge)) return [rule(CHAINS.apart, leaving(bridge), "DROP")];
  return [
    rule(CHAINS.forged, `-i ${bridge}`, CHAINS.engines.name),
    rule(CHAINS.known, leaving(bridge), CHAINS.to.name),
    rule(CHAINS.known, entering(bridge), CHAINS.from.name),
    rule(CHAINS.known, `-i ${bridge} -o ${ANY_BRIDGE} ${NOT_PUBLISHED}`, "DROP"),
    rule(CHAINS.known, `-i ${ANY_BRIDGE} -o ${bridge} ${NOT_PUBLISHED}`, "DROP"),
  ];
}

/**
 * The rules of a bridge B for a family that its network has no addresses of. A container can send it nevertheless, once
 * it gives itself an address.
 *
 *   adopted   -i B ! -o B → TSNET-TO   B may have that family for others: only not into other networks
 *   else      -i B        → drop       IPv4; IPv6 has a setting for that (disable_ipv6)
 */
export function absentRules(
  network: Pick<BridgeFacts, "family" | "bridge" | "comment">,
  adopted: boolean,
): Rule[] {
  const { family, bridge } = network;
  const rule = ruleMaker(network);
  if (adopted) return [rule(CHAINS.bridges, leaving(bridge), CHAINS.to.name)];
  return family === 4 ? [rule(CHAINS.arriving, `-i ${bridge}`, "DROP")] : [];
}

function masquerade({ subnets, bridge, masquerade, hostAddress, mode }: BridgeFacts, rule: MakeRule): Rule[] {
  if (!masquerade || mode === "routed" || mode === "isolated") return [];
  const target = hostAddress ? `SNAT --to-source ${hostAddress}` : "MASQUERADE";
  return subnets.map((subnet) => rule(CHAINS.masquerade, `-s ${subnet} ! -o ${bridge}`, target));
}
