import type { Host } from "../kernel/host.ts";
import { LINK_GROUP } from "../names.ts";
import type { Applied, Step } from "../step.ts";
import { nameBelow, sitsOn } from "./macvlan-on-parent.ts";
import { discardOwn, mark, mustBeOurs, nameBack, setDiffering } from "./own-link.ts";

/**
 * A link of the host's own on the parent, which reaches the containers there as the parent itself cannot. It is down.
 */
export function shimLink(
  host: Host,
  { name, alias, parent, mac }: { name: string; alias: string; parent: string; mac: string },
): Step {
  return {
    what: `link ${name} type macvlan link ${parent}`,
    async apply(): Promise<Applied> {
      const [there, below] = await Promise.all([host.link(name), host.links.get(parent)]);
      if (!below) return false;
      if (there) mustBeOurs(there, "macvlan", alias);
      if (there && sitsOn(there, below))
        return await setDiffering(host, there, { mac, mtu: below.mtu, ...mark(alias) });
      const before = there && `link ${await nameBelow(host, there)}`;
      const former = there ? undefined : await nameBack(host, { name, kind: "macvlan", alias }, this);
      if (former !== undefined) return former;
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
      return there ? await setDiffering(host, there, { up: true }) : false;
    },
    revert: () => Promise.resolve(),
  };
}
