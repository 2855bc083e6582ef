import { setTimeout as sleep } from "node:timers/promises";
import { LEAVING_GROUP } from "../../src/names.ts";
import type { Place } from "./site.ts";

/** How long the kernel may take for a link on its way out: the engine is answered before. */
const GONE_MS = 2000;
const LOOK_AGAIN_MS = 25;

/** A link with its addresses, as `ip -j -d address show` prints it. */
export interface Interface {
  readonly ifname: string;
  readonly mtu: number;
  readonly address: string;
  readonly flags: readonly string[];
  readonly master?: string;
  readonly ifalias?: string;
  /** Its number where it has no name. */
  readonly group?: string;
  readonly gso_max_size?: number;
  readonly linkinfo?: { readonly info_kind?: string };
  readonly addr_info: readonly {
    readonly local: string;
    readonly prefixlen: number;
    readonly scope: string;
  }[];
}

/** Every link of a place by its name, without the part after `@`. Those on their way out are waited for. */
export async function interfaces(place: Place): Promise<Record<string, Interface>> {
  const deadline = Date.now() + GONE_MS;
  for (;;) {
    const { stdout } = await place.exec(["ip", "-j", "-d", "address", "show"]);
    const links = JSON.parse(stdout) as Interface[];
    const leaving = links.some(({ group }) => group === String(LEAVING_GROUP));
    if (!leaving || Date.now() > deadline)
      return Object.fromEntries(links.map((link) => [link.ifname, link]));
    await sleep(LOOK_AGAIN_MS);
  }
}

/** One link of a place. */
export async function link(place: Place, name: string): Promise<Interface> {
  const all = await interfaces(place);
  const found = all[name];
  if (!found) throw new Error(`no link ${name}; there are ${Object.keys(all).join(", ")}`);
  return found;
}

/** The addresses with prefix length that are not link-local. */
export function addresses({ addr_info }: Interface): string[] {
  return addr_info
    .filter(({ scope }) => scope === "global")
    .map(({ local, prefixlen }) => `${local}/${String(prefixlen)}`);
}

/** Gateway and device of each default route of a family. */
export async function defaultRoutes(place: Place, family: 4 | 6 = 4): Promise<string[]> {
  const { stdout } = await place.exec(["ip", "-j", `-${String(family)}`, "route", "show", "default"]);
  const routes = JSON.parse(stdout || "[]") as { gateway?: string; dev: string }[];
  return routes.map(({ gateway = "", dev }) => `${gateway} ${dev}`);
}

/** The bridge of a network of tsnet's that was given no name. */
export function bridgeOf(networkId: string): string {
  return `ts-${networkId.slice(0, 12)}`;
}

/** The host's end of a container's attachment. */
export function hostEndOf(endpointId: string): string {
  return `tsh${endpointId.slice(0, 12)}`;
}

/** What the macvlans of a network that was given no parent sit on. */
export function privateParentOf(networkId: string): string {
  return `tsp${networkId.slice(0, 12)}`;
}
