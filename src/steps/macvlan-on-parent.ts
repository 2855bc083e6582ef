import { ConflictError, KernelError, isErrno } from "../errors.ts";
import type { Host } from "../kernel/host.ts";
import {
  type Link,
  type LinkSettings,
  type MacvlanMode,
  type NewLink,
  macvlanLower,
} from "../kernel/link.ts";
import { LINK_GROUP } from "../names.ts";
import { hasGone } from "./gone.ts";

/** A container's link on a parent, here or in a sandbox. */
export interface OnParent {
  /** What it is called until the engine moves it into the sandbox. */
  readonly name: string;
  readonly alias: string;
  readonly parent: string;
  readonly mode: MacvlanMode;
  readonly mac: string;
  /** At most; the parent's otherwise. */
  readonly mtu?: number;
}

/**
 * Makes the link, in another namespace if that is said. A parent that a link on its way out has for itself is waited for.
 *
 * @throws {KernelError} that says what is in the way
 */
export async function addMacvlan(
  host: Host,
  spec: OnParent,
  parent: Link,
  where: Pick<NewLink, "netns" | "name"> = spec,
): Promise<void> {
  const { mode, mac } = spec;
  const link = {
    ...where,
    kind: "macvlan",
    group: LINK_GROUP,
    macvlan: { parent: parent.index, mode },
  } as const;
  // In mode passthru it has the parent's MAC, and another one would be set on the parent.
  const wanted = { ...link, mtu: mtuOn(parent, spec), ...(mode === "passthru" ? {} : { mac }) };
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

/**
 * The engine could not set up a link whose MAC the parent or another macvlan on it has (macvlan_open, EADDRINUSE). One
 * on its way out is waited for.
 *
 * @throws {ConflictError} that names the MAC
 */
export async function mustBeFree(host: Host, parent: Link, { mac, mode }: OnParent): Promise<void> {
  // There it is the parent's.
  if (mode === "passthru") return;
  const isTaken = async () => (await host.neighbours.takenBy(macvlanLower(parent))).has(mac);
  if (mac === parent.mac || !(await hasGone(isTaken)))
    throw new ConflictError(
      `MAC address ${mac} is taken on ${parent.name}; choose another, or remove the container that has it`,
    );
}

/**
 * Whether the parent is the link below: another one may have got its name. Nothing is known before Linux 5.18 where the
 * two have the same index in two namespaces (nla_put_iflink, net/core/rtnetlink.c).
 */
export function sitsOn({ lower }: Pick<Link, "lower">, parent: Link): boolean {
  return lower === 0 || lower === macvlanLower(parent);
}

/** What a link sits on, by name, for a text. */
export async function nameBelow(host: Host, { lower }: Link): Promise<string> {
  return (await host.links.at(lower))?.name ?? "a link that is not here";
}

/** What follows the parent: packets larger than it takes would have to be cut by the CPU. */
export function following(spec: OnParent, parent: Link): LinkSettings {
  return { mtu: mtuOn(parent, spec), ...packets(parent) };
}

function mtuOn(parent: Link, { mtu = parent.mtu }: OnParent): number {
  return Math.min(mtu, parent.mtu);
}

/** The kernel sets them only on a link that knows its parent already. */
export function packets(parent: Link | undefined): Pick<LinkSettings, "gsoMaxSize"> {
  return parent && parent.gsoLimit > 0 ? { gsoMaxSize: parent.gsoMaxSize } : {};
}
