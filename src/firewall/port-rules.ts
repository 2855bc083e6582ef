import {
  type Family,
  LOOPBACK,
  bare,
  bracketed,
  contains,
  hostSubnet,
  isUnspecified,
  parseCidr,
  subnetOf,
} from "../ip.ts";
import type { Admitted } from "../kernel/socket-filter.ts";
import type { Protocol } from "../model.ts";
import { CHAINS, NOT_PUBLISHED, PUBLISHED } from "./layout.ts";
import { type Chain, type FamilyRule, type MakeRule, type Rule, ruleMaker } from "./rule.ts";

/** What the rules of a published port depend on, for one family. */
export interface RuledPort {
  readonly family: Family;
  readonly protocol: Protocol;
  /** Bare; `0.0.0.0` or `::` for every address of the host. */
  readonly hostAddress: string;
  readonly hostPort: number;
  /** Bare. */
  readonly containerAddress: string;
  readonly containerPort: number;
  readonly bridge: string;
  /** Whether the bridge's containers may reach each other. */
  readonly icc: boolean;
  /** Addresses of the bridge, with prefix length. */
  readonly gateways: readonly string[];
  readonly comment: string;
}

/**
 * What the daemon carries on the port's own bridge, since the kernel cannot (see relay.ts): requests of all its
 * containers if they are kept apart, else of the one whose port it is. A datagram is answered from the bridge's address,
 * so only what was sent to that is carried; connections may be to any address.
 */
export function relayedNeighbours(
  port: Pick<RuledPort, "family" | "protocol" | "hostAddress" | "icc" | "gateways" | "containerAddress">,
): Admitted[] {
  const { family, protocol, hostAddress, icc, gateways, containerAddress } = port;
  // The host's loopback is no container's.
  if (protocol === "sctp" || contains(LOOPBACK[family], hostAddress)) return [];
  const own = hostSubnet(containerAddress);
  if (icc && protocol === "tcp") return [{ from: own }];
  const to = (gateway: string) => (isUnspecified(hostAddress) ? bare(gateway) : hostAddress);
  return gateways
    .filter((gateway) => (icc ? contains(gateway, containerAddress) : parseCidr(gateway).family === family))
    .map((gateway) => ({
      from: icc ? own : subnetOf(gateway),
      ...(protocol === "udp" ? { to: to(gateway) } : {}),
    }));
}

/**
 * Published ports stand in the leaves of a tree over the hex digits of the host port, so that a new connection
 * is compared with 16 rules a level and not with every published port of the host (at 1,000 ports a flat
 * chain cost the last one ten times what it cost the first, and each deletion read them all):
 *
 *   TSNET-PORTS ─ tcp → TSNET-TCP ─ 36864:40959 → TSNET-TCP-9 ─ 39936:40191 → TSNET-TCP-9C
 *                                    ─ 40000:40015 → TSNET-TCP-9C4 ─ 40000 → DNAT
 *
 * The chains and jumps on the way are there as long as something is in their leaf, see {@link entrance}. Such a tree
 * hangs below TSNET-RELAYED and TSNET-SERVED as well.
 *
 * What containers that are kept apart ask of each other by a host's port, and what one asks of its own, is carried by
 * the daemon: it gets to the port's own socket, the former past the host's filter.
 */
export function portRules(port: RuledPort): Rule[] {
  const { protocol, hostPort, containerAddress, containerPort, bridge } = port;
  const destination = towards(port);
  const leaf = leafOf(CHAINS.ports, protocol, hostPort);
  const make = ruleMaker(port);
  const rule: MakeRule = (chain, match, verdict) => make(chain, `${match}${at(protocol, hostPort)}`, verdict);
  const translate = `DNAT --to-destination ${bracketed(containerAddress)}:${containerPort}`;
  const relayed = relayedNeighbours(port);
  if (relayed.length === 0) return [rule(leaf, destination, translate)];
  // Nobody else has the container's address: see TSNET-FORGED.
  const others = port.icc
    ? `! -s ${hostSubnet(containerAddress)} ${destination}`
    : `${destination}! -i ${bridge} `;
  return [
    rule(leaf, others, translate),
    ...(port.icc ? [] : relayed).map(({ from }) =>
      rule(leafOf(CHAINS.served, protocol, hostPort), `-s ${from} ${destination}-i ${bridge} `, "ACCEPT"),
    ),
    ...(destination === "" ? relayed : []).flatMap(({ from, to }) =>
      to === undefined ? [] : rule(leaf, `-s ${from} -i ${bridge} `, `DNAT --to-destination ${to}`),
    ),
  ];
}

/**
 * A port that the daemon serves (see relay.ts). Networks that have no way out are kept from it here, since nothing of
 * what they send to it is forwarded; nor is a datagram to everybody, whoever it says it is from.
 */
export function relayedRule(
  port: Pick<RuledPort, "family" | "protocol" | "hostAddress" | "hostPort" | "comment">,
): Rule {
  const { protocol, hostPort } = port;
  return ruleMaker(port)(
    leafOf(CHAINS.relayed, protocol, hostPort),
    `${towards(port)}${at(protocol, hostPort)}`,
    "DROP",
  );
}

/** A match for a port. */
function at(protocol: Protocol, port: number): string {
  return `-p ${protocol} -m ${protocol} --dport ${port}`;
}

/** A match for the host's address, with a space behind it; empty if that is any. */
function towards({ hostAddress }: Pick<RuledPort, "hostAddress">): string {
  return isUnspecified(hostAddress) ? "" : `-d ${hostSubnet(hostAddress)} `;
}

/** A port of a routed network: nothing is translated, but it may be reached from outside. */
export function openPortRule(port: Omit<RuledPort, "hostAddress" | "hostPort" | "icc" | "gateways">): Rule {
  const { protocol, containerAddress, containerPort, bridge } = port;
  const container = `-d ${hostSubnet(containerAddress)} -o ${bridge}`;
  return ruleMaker(port)(CHAINS.open, `${container} ${at(protocol, containerPort)}`, "ACCEPT");
}

/**
 * A container's published ports, for clients of another network that the container is on as well: it answers them
 * there and not by way of the host, past the translation, unless it sees the host's address.
 *
 * @param clients network address with prefix length
 */
export function sharedRule(
  {
    family,
    containerAddress,
    bridge,
    comment,
  }: Pick<RuledPort, "family" | "containerAddress" | "bridge" | "comment">,
  clients: string,
): Rule {
  const container = `-d ${hostSubnet(containerAddress)} -o ${bridge}`;
  const match = `-s ${clients} ${container} ${PUBLISHED}`;
  return ruleMaker({ family, comment })(CHAINS.hairpin, match, "MASQUERADE");
}

/** What published ports need of each network that can have some: its way back. */
export function returnRules(
  family: Family,
  bridge: string,
  subnets: readonly string[],
  rule: MakeRule,
): Rule[] {
  return [
    ...subnets.map((subnet) => rule(CHAINS.hairpin, `-s ${subnet} -o ${bridge} ${PUBLISHED}`, "MASQUERADE")),
    ...(family === 4 ? [rule(CHAINS.hairpin, `-s ${LOOPBACK[4]} -o ${bridge}`, "MASQUERADE")] : []),
    ...(family === 4 ? loopbackGuards(bridge, rule) : []),
  ];
}

/** The bridge takes loopback addresses in answers of published ports (route_localnet); nothing else may come in by that. */
function loopbackGuards(bridge: string, rule: MakeRule): Rule[] {
  return [
    rule(CHAINS.input, `-d ${LOOPBACK[4]} -i ${bridge} ${NOT_PUBLISHED}`, "DROP"),
    rule(CHAINS.input, `-s ${LOOPBACK[4]} -i ${bridge}`, "DROP"),
    rule(CHAINS.closed, `-s ${LOOPBACK[4]} -i ${bridge}`, "DROP"),
  ];
}

/** The chain at the end of a port's way through the tree below a root. */
function leafOf(root: Chain, protocol: Protocol, port: number): Chain {
  return {
    table: root.table,
    name: `TSNET-${protocol.toUpperCase()}-${digits(port).slice(0, LEVELS)}`,
  };
}

/** Digits of a port that have a chain of their own; the last one is told apart by the rules in the leaf. */
const LEVELS = 3;
const TREE = /^TSNET-(TCP|UDP|SCTP)(?:-([0-9A-F]{1,3}))?$/;

function digits(port: number): string {
  return port.toString(16).toUpperCase().padStart(4, "0");
}

/** The jump into a chain of a tree from the one above; undefined for a chain that is not of one. */
export function entrance({ table, name: chain }: Chain): FamilyRule | undefined {
  const [, upper, prefix] = TREE.exec(chain) ?? [];
  if (!upper) return undefined;
  const protocol = upper.toLowerCase();
  const root = [CHAINS.ports, CHAINS.relayed, CHAINS.served].find((one) => one.table === table);
  if (!prefix) return root && { spec: `-p ${protocol} -j ${chain}`, ...root };
  const first = parseInt(prefix.padEnd(4, "0"), 16);
  const last = parseInt(prefix.padEnd(4, "F"), 16);
  const above = prefix.length === 1 ? `TSNET-${upper}` : chain.slice(0, -1);
  const range = `-p ${protocol} -m ${protocol} --dport ${first}:${last}`;
  return { table, name: above, spec: `${range} -j ${chain}` };
}
