import { KernelError, isErrno } from "../errors.ts";
import { bare } from "../ip.ts";
import { announce } from "../kernel/announce.ts";
import type { Host } from "../kernel/host.ts";
import type { Link, NewLink } from "../kernel/link.ts";
import { home } from "../kernel/netns.ts";
import { LINK_GROUP, containerEnd, hostEnd, hostEndMac, linkAlias } from "../names.ts";
import type { Applied, Step } from "../step.ts";
import { discardOwn, mark, mustBeOurs, nameBack, setDiffering } from "./own-link.ts";

/** Ports that a bridge can have (BR_MAX_PORTS, net/bridge/br_private.h). */
export const BRIDGE_PORTS = 1023;

/** A bridge of tsnet's own. */
export interface BridgeSpec {
  readonly name: string;
  readonly alias: string;
  readonly mac: string;
  readonly mtu: number;
}

/** A veth pair from a bridge to a sandbox. */
export interface VethSpec {
  /** Id of the endpoint that it is for, by which its ends are called. */
  readonly endpoint: string;
  /** One end is a port of it; the engine moves the other into the sandbox. */
  readonly bridge: string;
  /** The bridge is somebody else's: what it is like stays. */
  readonly adopted: boolean;
  /** Of the sandbox's end. */
  readonly mac: string;
  readonly mtu: number;
  /** Bytes a packet from the container may have before it is cut to the MTU; absent: as many as the kernel allows. */
  readonly containerPackets?: number;
  /** Cut off from the bridge's other isolated ports. */
  readonly isolated: boolean;
  /** The sandbox has its end: a pair that is gone cannot be made again. */
  readonly joined: boolean;
}

/** The bridge, up. */
export function bridgeLink(host: Host, spec: BridgeSpec): Step {
  const { name, alias, mac, mtu } = spec;
  return {
    what: `link ${name} type bridge`,
    async apply(): Promise<Applied> {
      const there = await host.link(name);
      if (!there) {
        const former = await nameBack(host, { name, kind: "bridge", alias }, this);
        if (former !== undefined) return former;
        await host.links.add({ name, kind: "bridge", group: LINK_GROUP, mac, up: true });
        // An MTU that it is made with is not its own: it would have the default again when its last port goes.
        await host.links.set(name, { alias, mtu });
        return true;
      }
      mustBeOurs(there, "bridge", alias);
      return await setDiffering(host, there, { mac, mtu, up: true, ...mark(alias) });
    },
    async revert() {
      await discardOwn(host, name, alias);
    },
  };
}

/** A bridge that somebody else made: it must be there and up, and it stays when the network goes. */
export function adoptedBridge(host: Host, name: string): Step {
  return {
    what: `link ${name} up`,
    async apply() {
      const there = await host.link(name);
      if (!there)
        throw new KernelError(`ip link show ${name}`, "ENODEV", "the bridge this network was put on is gone");
      return await setDiffering(host, there, { up: true });
    },
    revert: () => Promise.resolve(),
  };
}

/**
 * The pair, with its near end in the bridge and packets as large as the kernel allows. The far end is not
 * looked at: it is the engine's from Join on.
 */
export function vethPair(host: Host, spec: VethSpec): Step {
  const { endpoint, bridge, isolated, mtu } = spec;
  const name = hostEnd(endpoint);
  const alias = linkAlias("endpoint", endpoint);
  return {
    what: `link ${name} type veth peer ${containerEnd(endpoint)}`,
    async apply(): Promise<Applied> {
      const master = await host.links.get(bridge);
      if (!master)
        throw new KernelError(`ip link add ${name} master ${bridge}`, "ENODEV", `no bridge ${bridge}`);
      // Nearly always it is not there yet, and then nobody need look.
      if (!spec.joined && (await isAdded(host, spec, master))) return true;
      const there = await host.link(name);
      if (there) {
        mustBeOurs(there, "veth", alias);
        // A port that got its own frames back would show a bridge within the container its members on the wrong side.
        const wanted = { isolated, hairpin: false, mtu, master: master.index, up: true, ...mark(alias) };
        const changed = await setDiffering(host, there, wanted);
        if (spec.adopted && there.master !== master.index) await tellNewMac(host, master, there);
        return changed;
      }
      const former = await nameBack(host, { name, kind: "veth", alias }, this);
      if (former !== undefined) return former;
      if (spec.joined)
        throw new KernelError(
          `ip link show ${name}`,
          "ENODEV",
          "the container's link is gone; restart the container",
        );
      await addPair(host, spec, master);
      return true;
    },
    async revert() {
      await discardOwn(host, name, alias);
    },
  };
}

/**
 * Whoever made the bridge again may have given it another MAC, which a container would find out only after half a
 * minute (RFC 4861, section 7.3.3; the kernel does the same for ARP). Its address may come back after the port.
 */
async function tellNewMac(host: Host, bridge: Link, port: Link): Promise<void> {
  const told = (await host.addresses.on(bridge)).map(({ cidr }) => bare(cidr));
  announce(home, { index: port.index, mac: bridge.mac }, told);
}

/** Makes the pair unless one of its names is taken. Resolves to whether it was made. */
async function isAdded(host: Host, spec: VethSpec, master: Link): Promise<boolean> {
  try {
    await addPair(host, spec, master);
    return true;
  } catch (error) {
    if (!isErrno(error, "EEXIST")) throw error;
    return false;
  }
}

async function addPair(host: Host, spec: VethSpec, master: Link): Promise<void> {
  const { endpoint, bridge, mtu, isolated, containerPackets } = spec;
  const name = hostEnd(endpoint);
  const alias = linkAlias("endpoint", endpoint);
  const limit = await host.bigPackets();
  const big = limit > 0 ? { gsoMaxSize: limit } : {};
  const largest = limit > 0 ? { gsoMaxSize: Math.min(limit, containerPackets ?? limit) } : {};
  const peer = { name: containerEnd(endpoint), mac: spec.mac, ...largest };
  const port = {
    name,
    kind: "veth",
    group: LINK_GROUP,
    mac: hostEndMac(endpoint),
    mtu,
    master: master.index,
    up: true,
  } as const;
  await addPort(host, master, { peer, ...big, ...port });
  try {
    await host.links.set(name, { alias, isolated, linkLocal: false });
  } catch (error) {
    if (!isErrno(error, "ENOTSUP")) throw error;
    // Somebody has taken it off the bridge: systemd-networkd does with every link that it was told to manage.
    await host.links.set(name, { master: master.index });
    await host.links.set(name, { alias, isolated, linkLocal: false });
  }
  if (!spec.adopted && master.gsoMaxSize < limit) await raisePackets(host, bridge);
}

/** A bridge takes no larger packets than the smallest of its ports does, so it gets them with the first one. */
async function raisePackets(host: Host, bridge: string): Promise<void> {
  const there = await host.links.get(bridge);
  if (there && there.gsoMaxSize < there.gsoLimit)
    await host.links.set(bridge, { gsoMaxSize: there.gsoLimit });
}

/** The kernel's word for a bridge that has all its ports is "exchange full". */
async function addPort(host: Host, { name: bridge }: Link, link: NewLink): Promise<void> {
  try {
    await host.links.add(link);
  } catch (error) {
    if (!isErrno(error, "EXFULL")) throw error;
    // One on its way out still is a port.
    await host.leavingsGone();
    await host.links.add(link).catch((cause: unknown) => {
      if (!isErrno(cause, "EXFULL")) throw cause;
      throw new KernelError(
        `ip link add ${link.name} master ${bridge}`,
        "EXFULL",
        `the bridge has the ${BRIDGE_PORTS.toLocaleString("en")} ports a Linux bridge can have; put further containers on another network`,
        { cause },
      );
    });
  }
}
