import { KernelError, isErrno } from "../errors.ts";
import { bare, isLinkLocal } from "../ip.ts";
import type { Host } from "../kernel/host.ts";
import type { Link } from "../kernel/link.ts";
import { isMulticast } from "../mac.ts";
import { LEAVING_GROUP, LINK_GROUP } from "../names.ts";
import type { Step } from "../step.ts";
import { hasGone } from "./gone.ts";
import { discardOwn, isForeign, mark, mustBeOurs, setDiffering } from "./own-link.ts";

/** A link that leads nowhere: what is sent through it is dropped. */
export interface PrivateParentSpec {
  readonly name: string;
  readonly alias: string;
  readonly kind: "dummy" | "ifb";
  readonly mac: string;
  readonly mtu: number;
}

/** A VLAN of another link. */
export interface VlanSpec {
  readonly name: string;
  readonly alias: string;
  readonly base: string;
  readonly id: number;
}

/** The private parent, up, with packets as large as the kernel allows. The host itself has no address on it. */
export function privateParent(host: Host, { name, alias, kind, mac, mtu }: PrivateParentSpec): Step {
  return {
    what: `link ${name} type ${kind}`,
    async apply() {
      const [there, limit] = await Promise.all([host.link(name), host.bigPackets()]);
      const settings = { mac, mtu, ...(limit > 0 ? { gsoMaxSize: limit } : {}) };
      if (there) {
        mustBeOurs(there, kind, alias);
        return await setDiffering(host, there, { up: true, ...settings, ...mark(alias) });
      }
      await host.links.add({ name, kind, group: LINK_GROUP, ...settings });
      await host.links.set(name, { alias, linkLocal: false });
      await host.links.set(name, { up: true });
      return true;
    },
    async revert() {
      await discardOwn(host, name, alias);
    },
  };
}

/**
 * The VLAN's link, up if the one below it is, and with its MTU, unless it is somebody else's. The host itself has no
 * address on it.
 */
export function vlanLink(host: Host, { name, alias, base, id }: VlanSpec): Step {
  return {
    what: `link ${name} type vlan id ${id}`,
    async apply() {
      const [there, below] = await Promise.all([host.link(name), host.links.get(base)]);
      if (!below) throw new KernelError(`ip link add link ${base} name ${name}`, "ENODEV", `no link ${base}`);
      if (there) {
        // The host's own set-up may have made it meanwhile, as when it starts anew; then it is used as it is.
        if (isForeign(there)) return false;
        mustBeOurs(there, "vlan", alias);
        const changed = await setDiffering(host, there, { mtu: below.mtu, ...mark(alias) });
        // The kernel brings it up together with the one below.
        return below.up && !there.up ? await raise(host, name) : changed;
      }
      const vlan = { parent: below.index, id };
      await host.links.add({ name, kind: "vlan", group: LINK_GROUP, vlan });
      await host.links.set(name, { alias, linkLocal: false });
      await raise(host, name);
      return true;
    },
    async revert() {
      const there = await host.link(name);
      if (there && !isForeign(there) && (await leaveToOthers(host, there))) return;
      await discardOwn(host, name, alias);
    },
  };
}

/**
 * Gives up a VLAN that tsnet made and others use by now: it would take their links with it, those inside containers for
 * good. From then on it is as one that was there before.
 *
 * @returns whether somebody uses it
 */
export async function leaveToOthers(host: Host, vlan: Link): Promise<boolean> {
  // Elsewhere it may be a container's of tsnet's whose namespace the kernel is taking down.
  const used = (await isUsedHere(host, vlan)) || !(await hasGone(() => isUsedElsewhere(host, vlan)));
  if (used) await host.links.set(vlan.name, { alias: "", group: 0 });
  return used;
}

/** Whether the host gave a link an address, made it a port, or put another one on it. */
async function isUsedHere(host: Host, { index, master }: Link): Promise<boolean> {
  if (master !== 0) return true;
  const [links, addresses] = await Promise.all([host.links.list(), host.addresses.on({ index })]);
  // Those the kernel gives by itself.
  if (addresses.some(({ cidr }) => !isLinkLocal(bare(cidr)))) return true;
  return links.some((link) => isOn(link, index) && !isOwn(link));
}

/** Whether a link that cannot be seen from here is on it: a macvlan that is up tells it a MAC to take frames for. */
async function isUsedElsewhere(host: Host, { index, mac: itsOwn }: Link): Promise<boolean> {
  const [taken, links] = await Promise.all([host.neighbours.takenBy(index), host.links.list()]);
  const known = links.filter((link) => isOn(link, index)).map(({ mac }) => mac);
  return [...taken].some((mac) => !isMulticast(mac) && mac !== itsOwn && !known.includes(mac));
}

function isOn({ lower, lowerElsewhere }: Link, index: number): boolean {
  return lower === index && !lowerElsewhere;
}

/** Whether it goes with its last network as well, or is going. */
function isOwn({ group }: Link): boolean {
  return group === LINK_GROUP || group === LEAVING_GROUP;
}

async function raise(host: Host, name: string): Promise<boolean> {
  try {
    await host.links.set(name, { up: true });
    return true;
  } catch (error) {
    if (isErrno(error, "ENETDOWN")) return false;
    throw error;
  }
}
