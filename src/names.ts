import { hash } from "node:crypto";
import { ipBytes } from "./ip.ts";
import { formatMac } from "./mac.ts";

/*
 * What tsnet's things on the host are called. A later version must be able to delete what this one made,
 * so these names are a persistent format. A link's name has 15 characters at most (IFNAMSIZ, linux/if.h).
 */

/** Of an id. */
const DIGITS = 12;
const BRIDGE = "ts-";

/** Group of every link tsnet makes ("ts"), set as it is made: what has it and no record is an orphan. */
export const LINK_GROUP = 0x7473;

/** Group of the links that are on their way out: whatever is in it is deleted, also after a crash. */
export const LEAVING_GROUP = 0x7474;

/** Bridge of a network. */
export function bridgeName(network: string): string {
  return `${BRIDGE}${network.slice(0, DIGITS)}`;
}

/** Every bridge that was given no other name, as iptables says it (iptables(8), `--in-interface`). */
export const ANY_BRIDGE = `${BRIDGE}+`;

/** Whether a link is, by its name, the bridge of a network. */
export function isBridgeName(name: string): boolean {
  return name.startsWith(BRIDGE);
}

/** The end of an endpoint's veth pair that stays on the host. */
export function hostEnd(endpoint: string): string {
  return `tsh${endpoint.slice(0, DIGITS)}`;
}

/** The end of an endpoint's veth pair that goes into the sandbox. */
export function containerEnd(endpoint: string): string {
  return `tsc${endpoint.slice(0, DIGITS)}`;
}

/** Whether a link of tsnet's is, by its name, the end that goes into a sandbox. */
export function isContainerEnd(name: string): boolean {
  return name.startsWith("tsc");
}

/** What the other end is called of one that goes into a sandbox; undefined if the name is not such a one's. */
export function hostEndOf(containerEnd: string): string | undefined {
  return isContainerEnd(containerEnd) ? containerEnd.replace("tsc", "tsh") : undefined;
}

/** The host's own macvlan beside those of a network's containers. */
export function shimName(network: string): string {
  return `tsm${network.slice(0, DIGITS)}`;
}

/** Parent of a macvlan network that was given none. */
export function privateParentName(network: string): string {
  return `tsp${network.slice(0, DIGITS)}`;
}

/** Whether a link is, by its name, one of the above. */
export function isOwnName(name: string): boolean {
  return /^ts[-hcmp]/.test(name) && name.length === BRIDGE.length + DIGITS;
}

/**
 * What a link can belong to: a network, as long as there is one; an endpoint; a network's endpoints together (shim);
 * or every network that names it as its parent, and then the id is the link's own name.
 */
export type OwnerKind = "network" | "endpoint" | "shim" | "parent";

/** Alias of a link, with the whole id of what it belongs to: `tsnet network 9b2a…`. */
export function linkAlias(kind: OwnerKind, id: string): string {
  return `tsnet ${kind} ${id}`;
}

/** What a link belongs to. */
export interface LinkOwner {
  readonly kind: OwnerKind;
  readonly id: string;
}

/** What a link with that alias belongs to; undefined if it is not tsnet's. */
export function ownerOf(alias: string): LinkOwner | undefined {
  const [, kind, id] = /^tsnet (network|endpoint|shim|parent) (\S+)$/.exec(alias) ?? [];
  return kind && id ? { kind: kind as OwnerKind, id } : undefined;
}

/** Comment of a rule. It needs no quotes in iptables-save's text. */
export function ruleComment(network: string): string {
  return `tsnet-${network.slice(0, DIGITS)}`;
}

/**
 * MAC of an endpoint that was given none: 02:42 and the IPv4 address, as the engine's drivers did before
 * version 28, so that whoever has the address has the MAC too and no neighbour's cache goes stale. Without an
 * IPv4 address, 02:42 and a digest of what there is.
 */
export function macOf(ipv4: string | undefined, otherwise: string): string {
  const tail = ipv4 ? ipBytes(ipv4) : digest(otherwise).subarray(0, 4);
  return formatMac(Buffer.from([0x02, 0x42, ...tail]));
}

/**
 * MAC of a network's bridge. Without one of its own a bridge takes the lowest of its ports', so that every
 * container that came or went would change the gateway's MAC.
 */
export function bridgeMac(network: string): string {
  return formatMac(Buffer.from([0x02, ...digest(network).subarray(0, 5)]));
}

/** MAC of the host's own macvlan, which may not be its parent's (macvlan_addr_busy, drivers/net/macvlan.c). */
export function shimMac(network: string): string {
  return bridgeMac(`shim ${network}`);
}

/**
 * MAC of the end of a veth pair that stays on the host. A bridge that somebody else made may take the lowest
 * of its ports' MACs, and this is never the lowest beside a real one (libvirt does the same for its taps).
 */
export function hostEndMac(endpoint: string): string {
  return formatMac(Buffer.from([0xfe, ...digest(endpoint).subarray(0, 5)]));
}

function digest(text: string): Buffer {
  return hash("sha256", text, "buffer");
}
