import { type Family, LOOPBACK } from "../ip.ts";
import { ANY_BRIDGE } from "../names.ts";
import { type Chain, type FamilyRule, TABLES, chainKey } from "./rule.ts";

/**
 * The chains of tsnet. Within the chains written in lower case below the order is fixed; everything else may
 * stand in any order, so rules are only ever appended and deleted.
 *
 *   mangle PREROUTING TSNET-ARRIVING    what the host itself must not hear, and IPv4 of networks that have none
 *                       new → TSNET-FORGED   with the address of a network, but from elsewhere → drop
 *                                            from a network → TSNET-ENGINES
 *                            TSNET-ENGINES  with the address of a network of the engine's → drop
 *   mangle FORWARD ── TSNET-ISOLATION   what may not pass is dropped here, before anybody's filter rules
 *                       1 known connection → TSNET-KNOWN, then return
 *                            TSNET-KNOWN    between two that hold containers, or into and out of what is internal, but
 *                                           of no published port → drop
 *                                           from a network to a network → TSNET-APART
 *                            TSNET-APART    to another one → drop
 *                       2 TSNET-BRIDGES   out of what is internal, within what is not for talking, or into and out of
 *                                         a macvlan network by way of the host → drop
 *                                         from a network to elsewhere → TSNET-TO, and the reverse → TSNET-FROM
 *                            TSNET-TO       to another bridge that holds containers → drop
 *                            TSNET-FROM     from an engine's bridge → drop
 *                       3 TSNET-OPEN      what may come in from outside uninvited → accept
 *                       4 TSNET-CLOSED    whatever else would come in → TSNET-INVITED, or drop where nothing is published
 *                            TSNET-INVITED  to no published port, or from an internal network of the engine's → drop
 *   mangle INPUT ──── TSNET-INPUT       what no container may reach of the host
 *                       from an internal network, tsnet's or the engine's → TSNET-RELAYED
 *                            TSNET-RELAYED  to a published port that the daemon serves itself (see relay.ts) → drop: a tree, too
 *   filter FORWARD ── TSNET-FORWARD     what is left is accepted, whatever the chain's policy says
 *   filter INPUT ──── TSNET-SERVED      new connections that the daemon serves within a network → accept: a tree, too
 *   nat PREROUTING ┐
 *   nat OUTPUT ────┴─ TSNET-PORTS       published ports: a tree, see port-rules.ts
 *   nat POSTROUTING ─ TSNET-POSTROUTING
 *                       1 TSNET-HAIRPIN     back where it came from, from loopback, or to a container that is on
 *                                           the client's network as well → the host's address
 *                       2 to a published port → return: the client keeps its address, as far as tsnet goes
 *                       3 TSNET-MASQUERADE  from a container to the outside → the host's address
 *
 * Packets of a known connection pass, so none may be opened with a forged source: a container could otherwise have the
 * answers to it delivered into another network. Nor do they pass where there can be no connection: a container that
 * speaks in the name of an outsider, or of the host, would otherwise be heard by those who have to do with that one.
 *
 * Dropping in mangle and not in filter means that neither the engine, which puts its own rules first each time
 * it starts, nor a user's ACCEPT can open what is closed, and accepting behind DOCKER-USER means that a
 * DROP there still drops. A packet for a published port has been translated (DNAT) and is let through, but for one from
 * an internal network.
 */
export const CHAINS = {
  arriving: { table: "mangle", name: "TSNET-ARRIVING" },
  forged: { table: "mangle", name: "TSNET-FORGED" },
  engines: { table: "mangle", name: "TSNET-ENGINES" },
  isolation: { table: "mangle", name: "TSNET-ISOLATION" },
  known: { table: "mangle", name: "TSNET-KNOWN" },
  apart: { table: "mangle", name: "TSNET-APART" },
  bridges: { table: "mangle", name: "TSNET-BRIDGES" },
  to: { table: "mangle", name: "TSNET-TO" },
  from: { table: "mangle", name: "TSNET-FROM" },
  open: { table: "mangle", name: "TSNET-OPEN" },
  closed: { table: "mangle", name: "TSNET-CLOSED" },
  invited: { table: "mangle", name: "TSNET-INVITED" },
  input: { table: "mangle", name: "TSNET-INPUT" },
  relayed: { table: "mangle", name: "TSNET-RELAYED" },
  forward: { table: "filter", name: "TSNET-FORWARD" },
  served: { table: "filter", name: "TSNET-SERVED" },
  ports: { table: "nat", name: "TSNET-PORTS" },
  postrouting: { table: "nat", name: "TSNET-POSTROUTING" },
  hairpin: { table: "nat", name: "TSNET-HAIRPIN" },
  masquerade: { table: "nat", name: "TSNET-MASQUERADE" },
} as const satisfies Record<string, Chain>;

/**
 * The chains that are there as long as any network has rules; the others, and the jumps to them, while they have rules.
 */
export const STANDING: readonly Chain[] = [
  CHAINS.arriving,
  CHAINS.forged,
  CHAINS.engines,
  CHAINS.isolation,
  CHAINS.known,
  CHAINS.apart,
  CHAINS.bridges,
  CHAINS.to,
  CHAINS.from,
  CHAINS.open,
  CHAINS.closed,
  CHAINS.invited,
  CHAINS.relayed,
  CHAINS.postrouting,
  CHAINS.hairpin,
  CHAINS.masquerade,
];

/** The chains whose rules must stand in the order given. */
export const ORDERED: readonly Chain[] = [CHAINS.isolation, CHAINS.postrouting];

/** The one jump from a built-in chain into one of tsnet's; both are in the same table. */
export interface Hook {
  readonly from: string;
  readonly to: Chain;
  /** The whole rule, as iptables-save prints it. */
  readonly spec: string;
  /** The jump it must stand behind where there is one; otherwise it stands first. */
  readonly behind?: string;
}

/** The jumps into tsnet's chains. */
export function hooks(family: Family): readonly Hook[] {
  const jump = ({ name }: Chain) => `-j ${name}`;
  const local = `-m addrtype --dst-type LOCAL ${jump(CHAINS.ports)}`;
  const fromOutside = `! -d ${LOOPBACK[family]} ${local}`;
  return [
    { from: "PREROUTING", to: CHAINS.arriving, spec: jump(CHAINS.arriving) },
    { from: "FORWARD", to: CHAINS.isolation, spec: jump(CHAINS.isolation) },
    { from: "INPUT", to: CHAINS.input, spec: jump(CHAINS.input) },
    { from: "FORWARD", to: CHAINS.forward, spec: jump(CHAINS.forward), behind: "-j DOCKER-USER" },
    { from: "INPUT", to: CHAINS.served, spec: `-m conntrack --ctstate NEW ${jump(CHAINS.served)}` },
    // A packet from outside to 127.0.0.1 must stay the martian that it is, and not become one for a container.
    { from: "PREROUTING", to: CHAINS.ports, spec: fromOutside },
    // For ::1 the kernel has no way back, see relay.ts.
    { from: "OUTPUT", to: CHAINS.ports, spec: family === 4 ? local : fromOutside },
    { from: "POSTROUTING", to: CHAINS.postrouting, spec: jump(CHAINS.postrouting) },
  ];
}

/** The built-in chains with these jumps, by table; the same for both families. */
export const HOOKED: Readonly<Record<string, readonly string[]>> = Object.fromEntries(
  TABLES.map((table) => [table, hooks(4).flatMap(({ from, to }) => (to.table === table ? from : []))]),
);

/** A packet for a published port: its destination was translated on its way in. */
export const PUBLISHED = "-m conntrack --ctstate DNAT";
/** Any other packet. */
export const NOT_PUBLISHED = "-m conntrack ! --ctstate DNAT";

/** A packet of a connection that is under way. */
const KNOWN = "-m conntrack --ctstate RELATED,ESTABLISHED";

/** What is new from a bridge; behind TSNET-RELAYED it does not reach what the daemon serves. */
export const newFrom = (bridge: string) => `-i ${bridge} -m conntrack --ctstate NEW`;

/** A bridge that holds the engine's own containers. */
export interface EngineBridge {
  readonly name: string;
  /** Whether it is that of an internal network, from which nothing of tsnet's is reached, not even a published port. */
  readonly internal: boolean;
  /** Of its addresses. */
  readonly subnets: readonly string[];
}

/** The rules that are there as long as there is any network. */
export function standingRules(engineBridges: readonly EngineBridge[]): FamilyRule[] {
  return [
    { ...CHAINS.arriving, spec: `-m conntrack --ctstate NEW -j ${CHAINS.forged.name}` },
    { ...CHAINS.forged, spec: `-i ${ANY_BRIDGE} -j ${CHAINS.engines.name}` },
    { ...CHAINS.isolation, spec: `${KNOWN} -j ${CHAINS.known.name}` },
    { ...CHAINS.isolation, spec: `${KNOWN} -j RETURN` },
    // Few packets go on from there, so it may be as long as there are networks.
    { ...CHAINS.known, spec: `-i ${ANY_BRIDGE} -o ${ANY_BRIDGE} ${NOT_PUBLISHED} -j ${CHAINS.apart.name}` },
    { ...CHAINS.isolation, spec: `-j ${CHAINS.bridges.name}` },
    { ...CHAINS.isolation, spec: `-j ${CHAINS.open.name}` },
    { ...CHAINS.isolation, spec: `-j ${CHAINS.closed.name}` },
    { ...CHAINS.invited, spec: `${NOT_PUBLISHED} -j DROP` },
    { ...CHAINS.postrouting, spec: `-j ${CHAINS.hairpin.name}` },
    // Not ACCEPT: the engine must go on to masquerade its own containers, whose answers it drops otherwise (28, raw).
    { ...CHAINS.postrouting, spec: `${PUBLISHED} -j RETURN` },
    { ...CHAINS.postrouting, spec: `-j ${CHAINS.masquerade.name}` },
    ...engineBridges.flatMap(engineBridgeRules),
  ];
}

function engineBridgeRules({ name, internal, subnets }: EngineBridge): FamilyRule[] {
  const to = [
    ...subnets.map((subnet) => ({ ...CHAINS.engines, spec: `-s ${subnet} ! -i ${name} -j DROP` })),
    { ...CHAINS.to, spec: `-o ${name} ${NOT_PUBLISHED} -j DROP` },
    { ...CHAINS.known, spec: `-i ${ANY_BRIDGE} -o ${name} ${NOT_PUBLISHED} -j DROP` },
  ];
  if (!internal)
    return [
      ...to,
      { ...CHAINS.from, spec: `-i ${name} ${NOT_PUBLISHED} -j DROP` },
      { ...CHAINS.known, spec: `-i ${name} -o ${ANY_BRIDGE} ${NOT_PUBLISHED} -j DROP` },
    ];
  return [
    ...to,
    { ...CHAINS.from, spec: `-i ${name} -j DROP` },
    { ...CHAINS.known, spec: `-i ${name} -o ${ANY_BRIDGE} -j DROP` },
    { ...CHAINS.invited, spec: `-i ${name} -j DROP` },
    { ...CHAINS.input, spec: `${newFrom(name)} -j ${CHAINS.relayed.name}` },
  ];
}

/** The bridges that standing rules were written for. */
export function engineBridgesIn(own: ReadonlyMap<string, readonly string[]>): EngineBridge[] {
  const forgeable = (own.get(chainKey(CHAINS.engines)) ?? []).map((spec) =>
    /^-s (\S+) ! -i (\S+) /.exec(spec),
  );
  return (own.get(chainKey(CHAINS.from)) ?? []).flatMap((spec) => {
    const [, name, condition] = /^-i (\S+) (.*)-j DROP$/.exec(spec) ?? [];
    if (name === undefined) return [];
    const subnets = forgeable.flatMap((found) => (found?.[2] === name ? (found[1] ?? []) : []));
    return { name, internal: condition === "", subnets };
  });
}
