import type { Host } from "../kernel/host.ts";
import { macvlanLower } from "../kernel/link.ts";
import { processNamespaces } from "../kernel/netns.ts";
import { LINK_GROUP } from "../names.ts";
import type { Step } from "../step.ts";
import { type Joined, removeInside, settleInside } from "./macvlan-in-sandbox.ts";
import { type OnParent, addMacvlan, following, mustBeFree, packets, sitsOn } from "./macvlan-on-parent.ts";
import { discardOwn, mark, mustBeOurs, setDiffering } from "./own-link.ts";

/** A container's own link on a parent. */
export interface MacvlanSpec extends OnParent {
  /** The near end of the pair that stands in for it while there is no parent. */
  readonly standIn: string;
  /** The engine has it, or is about to. */
  readonly joined?: Joined;
  /**
   * Path of the sandbox that the engine is about to give it back from: what is not here is on its way, and must not
   * find its name taken.
   */
  readonly left?: string;
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
          return await setDiffering(host, there, { ...mark(alias), ...following(spec, parent) });
        if (joined) return false;
        await host.links.delete(name);
      }
      if (parent) {
        await mustBeFree(host, parent, spec);
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

async function addStandIn(
  host: Host,
  { name, standIn, alias, mac, mtu = STAND_IN_MTU }: MacvlanSpec,
): Promise<void> {
  await host.links.add({ name: standIn, kind: "veth", group: LINK_GROUP, mtu, peer: { name, mac } });
  await host.links.set(standIn, { alias, linkLocal: false });
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
