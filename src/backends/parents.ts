import { ConflictError, InvalidError, TsnetError } from "../errors.ts";
import type { Host } from "../kernel/host.ts";
import { type Link, NAME_LENGTH } from "../kernel/link.ts";
import { linkAlias, ownerOf, privateParentName } from "../names.ts";

/** The link that a macvlan network sits on, as it was found or is to be made. */
export interface Parent {
  readonly name: string;
  /** Absent: it was there, and stays. */
  readonly made?:
    | { readonly kind: "vlan"; readonly base: string; readonly id: number }
    | { readonly kind: "dummy" | "ifb" };
}

/** VLAN ids that can be used (IEEE 802.1Q, table 9-2: 0 is no VLAN and 4095 reserved). */
const VLAN_IDS = { first: 1, last: 4094 };

/**
 * Decides what a network's parent is. Nothing is changed.
 *
 * @param asked the option; undefined for a parent that leads nowhere
 * @returns with the link, if there is one already
 */
export async function findParent(
  host: Host,
  network: string,
  asked: string | undefined,
): Promise<{ parent: Parent; link?: Link }> {
  if (!(await host.links.canMake("macvlan")))
    throw new TsnetError("unsupported", "this kernel has no macvlan (CONFIG_MACVLAN)");
  if (asked === undefined)
    return { parent: { name: privateParentName(network), made: { kind: await privateKind(host) } } };
  const link = await host.links.get(asked);
  if (!link) return { parent: { name: asked, made: await missingVlan(host, asked) } };
  await mustTakeMacvlan(host, link);
  const vlan = link.alias === linkAlias("parent", asked) ? vlanOf(asked) : undefined;
  // It may have been asked for by another of its names (altname, ip-link(8)).
  return { parent: { name: link.name, ...(vlan ? { made: vlan } : {}) }, link };
}

/**
 * A dummy where the kernel has it, as the engine makes one. An ifb drops what it is given just as well as long as
 * nobody redirects to it with tc(8), and kernels that leave out the one often have the other. A veth pair would not
 * do: its other end hears the containers and answers them for the host.
 */
async function privateKind(host: Host): Promise<"dummy" | "ifb"> {
  for (const kind of ["dummy", "ifb"] as const) if (await host.links.canMake(kind)) return kind;
  throw new TsnetError(
    "unsupported",
    "this kernel has neither dummy nor ifb for a network without a parent; name one with -o parent=",
  );
}

async function missingVlan(host: Host, name: string): Promise<NonNullable<Parent["made"]>> {
  const vlan = Buffer.byteLength(name) <= NAME_LENGTH ? vlanOf(name) : undefined;
  const base = vlan && (await host.links.get(vlan.base));
  if (!base)
    throw new InvalidError(
      `option parent is "${name}", but must be an Ethernet link of this host, or LINK.ID for a VLAN of one`,
    );
  if (vlan.id < VLAN_IDS.first || vlan.id > VLAN_IDS.last)
    throw new InvalidError(
      `option parent is "${name}", but a VLAN has a number from ${VLAN_IDS.first} to ${VLAN_IDS.last}`,
    );
  await mustTakeMacvlan(host, base);
  if (!(await host.links.canMake("vlan")))
    throw new TsnetError(
      "unsupported",
      `parent ${name} is not there and cannot be made: this kernel has no 802.1q (CONFIG_VLAN_8021Q)`,
    );
  return { ...vlan, base: base.name };
}

/** `eth0.50` is VLAN 50 of eth0. */
function vlanOf(name: string): { kind: "vlan"; base: string; id: number } | undefined {
  const [, base, id] = /^([^.]+)\.(\d+)$/.exec(name) ?? [];
  return base && id ? { kind: "vlan", base, id: Number(id) } : undefined;
}

async function mustTakeMacvlan(host: Host, link: Link): Promise<void> {
  const { name, ethernet, alias } = link;
  if (!ethernet) throw new InvalidError(`option parent is "${name}", but ${name} is not an Ethernet link`);
  const owner = ownerOf(alias);
  if (owner && owner.kind !== "parent")
    throw new ConflictError(`parent ${name} belongs to ${owner.kind} ${owner.id}; name another link`);
  const above = await whoTakesFrames(host, link);
  if (above) throw new ConflictError(`parent ${name} is a port of ${above}; name that as the parent`);
}

/** What a link is a port of, by name, if that takes the frames of its ports, so that no macvlan gets any. */
export async function whoTakesFrames(host: Host, { master }: Link): Promise<string | undefined> {
  if (master === 0) return undefined;
  const above = await host.links.at(master);
  // A routing domain leaves its links their frames; whatever else has links takes them.
  return above?.kind === "vrf" ? undefined : above?.name;
}
