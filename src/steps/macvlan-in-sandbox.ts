import { isDeepStrictEqual } from "node:util";
import { ConflictError, KernelError } from "../errors.ts";
import { EVERYWHERE, FAMILIES, type Family, bare, isEverywhere, parseCidr } from "../ip.ts";
import { announce } from "../kernel/announce.ts";
import type { Host } from "../kernel/host.ts";
import type { Link } from "../kernel/link.ts";
import { processNamespaces } from "../kernel/netns.ts";
import { Sandbox } from "../kernel/sandbox.ts";
import { LINK_GROUP } from "../names.ts";
import type { Applied } from "../step.ts";
import { type OnParent, addMacvlan, following, nameBelow, packets, sitsOn } from "./macvlan-on-parent.ts";
import { setDiffering } from "./own-link.ts";

/** What only the sandbox can tell of a link, and nobody when it has gone with its parent. */
export interface Seen {
  readonly ifname: string;
  /** Families whose default route leads through it. */
  readonly leads: Family[];
  /** Index of the link that it sits on; 0 if that is not known, see {@link sitsOn}. */
  readonly lower: number;
}

/** What the engine makes of a link in the sandbox. */
export interface Joined {
  /** Path of the sandbox's network namespace. */
  readonly sandbox: string;
  /** What the link is called, before its number. */
  readonly prefix: string;
  /** What it was like when it was last seen. */
  readonly seen?: Seen;
  /** Keeps what it is like. */
  readonly remember: (seen: Seen) => Promise<void>;
  /** With prefix length. */
  readonly addresses: readonly string[];
  /** Its settings, each with IFNAME for its name, separated by commas. */
  readonly sysctls?: string;
  /** Bare; those of them by which no other network of the container's leads out. */
  readonly gateways: readonly string[];
}

/**
 * Makes the link in the sandbox what it should be, and makes it again if it is not there, or is a stand-in.
 *
 * @returns false also while the engine is at it, or the sandbox is no more
 */
export async function settleInside(
  host: Host,
  spec: OnParent,
  joined: Joined,
  parent: Link,
): Promise<Applied> {
  const settleIn = async (inside: Sandbox): Promise<Applied> => {
    const links = await inside.links.list();
    const mine = links.find(({ alias }) => alias === spec.alias);
    // The engine names it before it brings it up.
    if (mine?.up) await look(inside, mine, joined);
    if (mine?.kind === "macvlan") {
      await mustSitOn(host, mine, parent);
      return await setDiffering(inside, mine, following(spec, parent));
    }
    // The engine is at it.
    if (mine && !mine.up) return false;
    if (!mine && (await isMovedOn(spec, joined, parent))) return false;
    // With one end the whole pair goes.
    const replaced = links.filter((link) => link === mine || isHalfMade(link, spec, parent));
    for (const { name } of replaced) await inside.links.delete(name);
    const others = links.filter((link) => !replaced.includes(link));
    const name = mine?.name ?? freeName(joined, others);
    await replaceInside(host, inside, { spec, joined, parent, name });
    return true;
  };
  return (await Sandbox.within(joined.sandbox, settleIn)) ?? false;
}

/**
 * A container's link that sits on what was called like the parent before stays there. Made again on the parent it would
 * lose what somebody inside has set up on it, and the connections, if whom they lead to is still behind the other.
 *
 * @throws {ConflictError} that says what it sits on
 */
async function mustSitOn(host: Host, link: Link, parent: Link): Promise<void> {
  if (sitsOn(link, parent)) return;
  throw new ConflictError(
    `link ${link.name} of the container sits on ${await nameBelow(host, link)}, and another link is called ${parent.name} now; restart the container, or give both links their names back`,
  );
}

/**
 * Whether somebody in the container has moved the link into a namespace of his own, where it works on: made again it
 * would be there twice. It goes with its parent wherever it is.
 */
async function isMovedOn({ alias }: OnParent, { seen }: Joined, parent: Link): Promise<boolean> {
  if (!sitsOn({ lower: seen?.lower ?? 0 }, parent)) return false;
  for (const namespace of processNamespaces()) {
    const links = (await Sandbox.within(namespace, (there) => there.links.list("macvlan"))) ?? [];
    if (links.some((link) => link.alias === alias && sitsOn(link, parent))) return true;
  }
  return false;
}

/** Has what only the sandbox can tell kept. */
async function look(
  inside: Sandbox,
  { name, index, lower }: Link,
  { seen, remember }: Joined,
): Promise<void> {
  const defaults = (await inside.routes.list()).filter(({ subnet }) => isEverywhere(subnet));
  const leads = FAMILIES.filter((family) => {
    const ways = defaults.filter(({ subnet }) => subnet === EVERYWHERE[family]);
    // The engine sets it after it has brought up the link.
    return ways.length === 0 ? seen?.leads.includes(family) : ways.some(({ link }) => link === index);
  });
  const now = { ifname: name, leads, lower };
  if (!isDeepStrictEqual(now, seen)) await remember(now);
}

/**
 * Whether a daemon that was killed was making this one: it has no alias yet. Nor have the container's ends of veth
 * pairs, and what is being made for another network at this moment.
 */
function isHalfMade({ kind, group, alias, mac }: Link, spec: OnParent, parent: Link): boolean {
  const expected = spec.mode === "passthru" ? parent.mac : spec.mac;
  return kind === "macvlan" && group === LINK_GROUP && alias === "" && mac === expected;
}

/** Makes the link as the engine had it. Its alias comes last, so that one which is there is whole. */
async function replaceInside(
  host: Host,
  inside: Sandbox,
  { spec, joined, parent, name }: { spec: OnParent; joined: Joined; parent: Link; name: string },
): Promise<void> {
  await addMacvlan(host, spec, parent, { netns: inside.netns, name });
  try {
    await configure(inside, name, joined);
    await inside.links.set(name, { alias: spec.alias, ...packets(parent) });
  } catch (error) {
    await inside.links.delete(name);
    throw error;
  }
}

/** Does what the engine did when the container started. */
async function configure(inside: Sandbox, name: string, joined: Joined): Promise<void> {
  const { addresses, gateways, sysctls = "" } = joined;
  const withIpv6 = addresses.some((cidr) => parseCidr(cidr).family === 6);
  inside.setSysctl(`net/ipv6/conf/${name}/disable_ipv6`, withIpv6 ? "0" : "1");
  const link = await inside.links.get(name);
  if (!link) throw new KernelError(`ip link show ${name}`, "ENODEV", "it is gone from the sandbox again");
  for (const cidr of addresses) await inside.addresses.add(link, cidr);
  for (const [, key = "", value = ""] of sysctls.matchAll(/([^,=]+)=([^,]*)/g))
    // docker(1) writes the whole option in lower case.
    inside.setSysctl(key.replaceAll(".", "/").replace(/ifname/i, name), value);
  await inside.links.set(name, { up: true });
  const routes = await inside.routes.list();
  for (const gateway of gateways) {
    const subnet = EVERYWHERE[parseCidr(`${gateway}/0`).family];
    // Another network of the container's may be its way out.
    if (routes.every((route) => route.subnet !== subnet))
      await inside.routes.add({ subnet, link: link.index, gateway });
  }
  announce(inside.netns, link, addresses.map(bare));
}

/** What it was called, as the engine still has it; the lowest that is free if that was never seen, or is taken. */
function freeName({ prefix, seen }: Joined, links: readonly Link[]): string {
  const taken = new Set(links.map(({ name }) => name));
  if (seen && !taken.has(seen.ifname)) return seen.ifname;
  for (let number = 0; ; number += 1) {
    const name = `${prefix}${number}`;
    if (!taken.has(name)) return name;
  }
}

/** Deletes the link in a sandbox. Resolves to whether it was there. */
export async function removeInside(sandbox: string, alias: string): Promise<boolean> {
  const removed = await Sandbox.within(sandbox, async (inside) => {
    const mine = (await inside.links.list()).find((link) => link.alias === alias);
    if (mine) await inside.links.delete(mine.name);
    return mine !== undefined;
  });
  return removed ?? false;
}
