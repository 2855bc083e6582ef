import { KernelError, isErrno } from "../errors.ts";
import { LINK_GROUP } from "../names.ts";
import type { Step } from "../step.ts";
import type { Host } from "../kernel/host.ts";
import { discardOwn, isForeign, mustBeOurs, settle } from "./own-link.ts";

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
        return await settle(host, there, { alias, ...settings, up: true });
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

/** The VLAN's link, up if the one below it is, and with its MTU, unless it is somebody else's. The host itself has no address on it. */
export function vlanLink(host: Host, { name, alias, base, id }: VlanSpec): Step {
  return {
    what: `link ${name} type vlan id ${String(id)}`,
    async apply() {
      const [there, below] = await Promise.all([host.link(name), host.links.get(base)]);
      if (!below) throw new KernelError(`ip link add link ${base} name ${name}`, "ENODEV", `no link ${base}`);
      if (there) {
        // The host's own set-up may have made it meanwhile, as when it starts anew; then it is used as it is.
        if (isForeign(there)) return false;
        mustBeOurs(there, "vlan", alias);
        const changed = await settle(host, there, { alias, mtu: below.mtu });
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
      await discardOwn(host, name, alias);
    },
  };
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
