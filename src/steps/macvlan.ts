import { isDeepStrictEqual } from "node:util";
import { ConflictError, KernelError, isErrno } from "../errors.ts";
import { FAMILIES, type Family, bare, parseCidr } from "../ip.ts";
import { LINK_GROUP } from "../names.ts";
import type { Applied, Step } from "../step.ts";
import { announce } from "../kernel/announce.ts";
import type { Host } from "../kernel/host.ts";
import {
  type Link,
  type LinkSettings,
  type MacvlanMode,
  type NewLink,
  macvlanLower,
} from "../kernel/link.ts";
import { hasGone } from "./gone.ts";
import { discardOwn, mark, mustBeOurs, settle } from "./own-link.ts";
import { processNamespaces } from "../kernel/netns.ts";
import { Sandbox } from "../kernel/sandbox.ts";

/** A container's own link on a parent. */
export interface MacvlanSpec {
  /** What it is called until the engine moves it into the sandbox. */
  readonly name: string;
  /** The near end of the pair that stands in for it while there is no parent. */
  readonly standIn: string;
  readonly alias: string;
  readonly parent: string;
  readonly mode: MacvlanMode;
  readonly mac: string;
  /** At most; the parent's otherwise. */
  readonly mtu?: number;
  /** The engine has it, or is about to. */
  readonly joined?: Joined;
  /**
   * Path of the sandbox that the engine is about to give it back from: what is not here is on its way, and must not
   * find its name taken.
   */
  readonly left?: string;
}

/** What only the sandbox can tell of a link, and nobody when it has gone with its parent. */
export interface Seen {
  readonly ifname: string;
  /** Families whose default route leads through it. */
  readonly leads: Family[];
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

/** MTU of a stand-in: no packet passes it. */
const STAND_IN_MTU = 1500;

/**
 * The link, wherever it is: here until the engine moves it, then in the sandbox. Without a parent a container
 * gets one end of a veth pair whose other end is down, and sees an interface without carrier. When the
 * parent is back, the stand-in is replaced inside the sandbox, and so is a link that went with its parent.
 */
export function macvlanLink(host: Host, spec: MacvlanSpec): Step {
  const { name, standIn, alias, joined } = spec;
  return {
    what: `link ${name} type macvlan link ${spec.parent}`,
    async apply() {
      const [there, parent] = await Promise.all([host.link(name), host.links.get(spec.parent)]);
      if (!there && spec.left !== undefined) return false;
      if (!there && joined) return parent ? await settleInside(host, spec, joined, parent) : false;
      if (there) {
        mustBeOurs(there, there.kind === "veth" ? "veth" : "macvlan", alias);
        if (!parent) return false;
        if (there.kind === "macvlan" && sitsOn(there, parent))
          return await settle(host, there, { ...mark(alias), ...following(spec, parent) });
        if (joined) return false;
        await host.links.delete(name);
      }
      if (parent) {
        await untilFree(host, parent, spec.mac);
        await addMacvlan(host, spec, parent);
      } else await addStandIn(host, spec);
      await host.links.set(name, { alias, ...packets(parent) });
      return true;
    },
    async revert() {
      if (await discardOwn(host, name, alias)) return;
      // The engine has not given it back: it is still in a sandbox, or went with it.
      await discardOwn(host, standIn, alias);
      const sandbox = joined?.sandbox ?? spec.left;
      if (sandbox && (await removeInside(sandbox, alias))) return;
      await removeStray(host, spec);
    },
  };
}

/**
 * A link of the host's own on the parent, which reaches the containers there as the parent itself cannot. It is down.
 */
export function shimLink(
  host: Host,
  { name, alias, parent, mac }: { name: string; alias: string; parent: string; mac: string },
): Step {
  return {
    what: `link ${name} type macvlan link ${parent}`,
    async apply() {
      const [there, below] = await Promise.all([host.link(name), host.links.get(parent)]);
      if (!below) return false;
      if (there) mustBeOurs(there, "macvlan", alias);
      if (there && sitsOn(there, below))
        return await settle(host, there, { ...mark(alias), mac, mtu: below.mtu });
      const before = there && `link ${await nameBelow(host, there)}`;
      // No container loses anything with it.
      if (there) await host.links.delete(name);
      const macvlan = { parent: below.index, mode: "bridge" } as const;
      await host.links.add({ name, kind: "macvlan", group: LINK_GROUP, mac, mtu: below.mtu, macvlan });
      await host.links.set(name, { alias, linkLocal: false });
      return before ?? true;
    },
    async revert() {
      await discardOwn(host, name, alias);
    },
  };
}

/** A link that must be up, if it is there at all. */
export function linkUp(host: Host, name: string): Step {
  return {
    what: `link ${name} up`,
    async apply() {
      const there = await host.links.get(name);
      return there ? await settle(host, there, { up: true }) : false;
    },
    revert: () => Promise.resolve(),
  };
}

/**
 * Whether the parent is the link below: another one may have got its name. Nothing is known before Linux 5.18 where the
 * two have the same index in two namespaces (nla_put_iflink, net/core/rtnetlink.c).
 */
function sitsOn({ lower }: Link, parent: Link): boolean {
  return lower === 0 || lower === macvlanLower(parent);
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

async function nameBelow(host: Host, { lower }: Link): Promise<string> {
  return (await host.links.at(lower))?.name ?? "a link that is not here";
}

/** What follows the parent: packets larger than it takes would have to be cut by the CPU. */
function following({ mtu }: MacvlanSpec, parent: Link): LinkSettings {
  return { mtu: Math.min(mtu ?? parent.mtu, parent.mtu), ...packets(parent) };
}

/** The kernel sets them only on a link that knows its parent already. */
function packets(parent: Link | undefined): Pick<LinkSettings, "gsoMaxSize"> {
  return parent && parent.gsoLimit > 0 ? { gsoMaxSize: parent.gsoMaxSize } : {};
}

/**
 * Waits while another macvlan of the parent has the MAC: the engine could not set this one up (macvlan_open,
 * EADDRINUSE).
 */
async function untilFree(host: Host, parent: Link, mac: string): Promise<void> {
  await hasGone(async () => (await host.neighbours.takenBy(macvlanLower(parent))).has(mac));
}

async function addMacvlan(
  host: Host,
  spec: MacvlanSpec,
  parent: Link,
  where: Pick<NewLink, "netns" | "name"> = spec,
): Promise<void> {
  const { mode, mac, mtu = parent.mtu } = spec;
  const link = {
    ...where,
    kind: "macvlan",
    group: LINK_GROUP,
    macvlan: { parent: parent.index, mode },
  } as const;
  // In mode passthru it has the parent's MAC, and another one would be set on the parent.
  const wanted = { ...link, mtu: Math.min(mtu, parent.mtu), ...(mode === "passthru" ? {} : { mac }) };
  let refusal: unknown;
  const isRefused = async () => {
    try {
      await host.links.add(wanted);
      return false;
    } catch (error) {
      const mayPass = isErrno(error, "EINVAL") || (isErrno(error, "EBUSY") && refusal === undefined);
      refusal = explained(error, `ip link add ${where.name} link ${spec.parent} type macvlan mode ${mode}`);
      if (!mayPass) throw refusal;
      // A passthru link that is on its way out still has the parent for itself.
      await host.leavingsGone();
      return true;
    }
  };
  if (!(await hasGone(isRefused))) throw refusal;
}

function explained(cause: unknown, command: string): unknown {
  const hint = cause instanceof KernelError ? HINTS[cause.errno] : undefined;
  return hint && cause instanceof KernelError
    ? new KernelError(command, cause.errno, hint, { cause })
    : cause;
}

/** What the kernel means when it refuses a macvlan (macvlan_common_newlink, drivers/net/macvlan.c). */
const HINTS: Readonly<Record<string, string>> = {
  EINVAL: "a parent with a passthru link takes no other link, and one with other links takes no passthru",
  EBUSY: "the parent belongs to a bridge, a bond or ipvlan",
};

async function addStandIn(
  host: Host,
  { name, standIn, alias, mac, mtu = STAND_IN_MTU }: MacvlanSpec,
): Promise<void> {
  await host.links.add({ name: standIn, kind: "veth", group: LINK_GROUP, mtu, peer: { name, mac } });
  await host.links.set(standIn, { alias, linkLocal: false });
}

async function settleInside(host: Host, spec: MacvlanSpec, joined: Joined, parent: Link): Promise<Applied> {
  const inside = Sandbox.open(joined.sandbox);
  if (!inside) return false;
  try {
    const links = await inside.links.list();
    const mine = links.find(({ alias }) => alias === spec.alias);
    // The engine names it before it brings it up.
    if (mine?.up) await look(inside, mine, joined);
    if (mine?.kind === "macvlan") {
      await mustSitOn(host, mine, parent);
      return await settle(inside, mine, following(spec, parent));
    }
    // The engine is at it.
    if (mine && !mine.up) return false;
    // With one end the whole pair goes.
    const replaced = links.filter((link) => link === mine || isHalfMade(link, spec, parent));
    for (const { name } of replaced) await inside.links.delete(name);
    const others = links.filter((link) => !replaced.includes(link));
    const name = mine?.name ?? freeName(joined, others);
    await replaceInside(host, inside, { spec, joined, parent, name });
    return true;
  } finally {
    inside.close();
  }
}

async function look(inside: Sandbox, { name, index }: Link, { seen, remember }: Joined): Promise<void> {
  const defaults = (await inside.routes()).filter(({ subnet }) => subnet.endsWith("/0"));
  const leads = FAMILIES.filter((family) => {
    const ways = defaults.filter(({ subnet }) => subnet === DEFAULT[family]);
    // The engine sets it after it has brought up the link.
    return ways.length === 0 ? seen?.leads.includes(family) : ways.some(({ link }) => link === index);
  });
  const now = { ifname: name, leads };
  if (!isDeepStrictEqual(now, seen)) await remember(now);
}

/**
 * Whether a daemon that was killed was making this one: it has no alias yet. Nor have the container's ends of veth
 * pairs, and what is being made for another network at this moment.
 */
function isHalfMade({ kind, group, alias, mac }: Link, spec: MacvlanSpec, parent: Link): boolean {
  const expected = spec.mode === "passthru" ? parent.mac : spec.mac;
  return kind === "macvlan" && group === LINK_GROUP && alias === "" && mac === expected;
}

/** Makes the link as the engine had it. Its alias comes last, so that one which is there is whole. */
async function replaceInside(
  host: Host,
  inside: Sandbox,
  { spec, joined, parent, name }: { spec: MacvlanSpec; joined: Joined; parent: Link; name: string },
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
  const routes = await inside.routes();
  for (const gateway of gateways) {
    const subnet = DEFAULT[parseCidr(`${gateway}/0`).family];
    // Another network of the container's may be its way out.
    if (routes.every((route) => route.subnet !== subnet))
      await inside.addRoute({ subnet, link: link.index, gateway });
  }
  announce(inside.netns, link, addresses.map(bare));
}

const DEFAULT: Record<Family, string> = { 4: "0.0.0.0/0", 6: "::/0" };

/** Resolves to whether it was there. */
async function removeInside(sandbox: string, alias: string): Promise<boolean> {
  const inside = Sandbox.open(sandbox);
  if (!inside) return false;
  try {
    const mine = (await inside.links.list()).find((link) => link.alias === alias);
    if (mine) await inside.links.delete(mine.name);
    return mine !== undefined;
  } finally {
    inside.close();
  }
}

/**
 * Looks for it in every process's namespace, if the parent says that it is somewhere. An engine that was killed may
 * take a container for ended that runs on, and have another namespace under its sandbox's path; it gives the address,
 * and so the MAC, to the next one then.
 */
async function removeStray(host: Host, { parent, mode, mac, alias }: MacvlanSpec): Promise<void> {
  const below = await host.links.get(parent);
  // The parent does not tell of one in mode passthru.
  if (!below || (mode !== "passthru" && !(await host.neighbours.takenBy(macvlanLower(below))).has(mac)))
    return;
  for (const namespace of processNamespaces()) if (await removeInside(namespace, alias)) return;
}

/** What it was called, as the engine still has it; the lowest that is free if that was never seen, or is taken. */
function freeName({ prefix, seen }: Joined, links: readonly Link[]): string {
  const taken = new Set(links.map(({ name }) => name));
  if (seen && !taken.has(seen.ifname)) return seen.ifname;
  for (let number = 0; ; number += 1) {
    const name = `${prefix}${String(number)}`;
    if (!taken.has(name)) return name;
  }
}
