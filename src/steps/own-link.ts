import { ConflictError } from "../errors.ts";
import type { Host } from "../kernel/host.ts";
import type { Link, LinkKind, LinkSettings, Links } from "../kernel/link.ts";
import { LEAVING_GROUP, LINK_GROUP, ownerOf } from "../names.ts";
import type { Step } from "../step.ts";

/**
 * A link that carries our name but not our mark is not ours to change.
 *
 * @throws {ConflictError} that says what it is
 */
export function mustBeOurs(link: Link, kind: string, alias: string): void {
  const { name } = link;
  if (link.kind !== kind)
    throw new ConflictError(`link ${name} exists and is a ${link.kind || "device"}, not a ${kind}`);
  if (link.alias === alias) return;
  if (link.group !== LINK_GROUP)
    throw new ConflictError(
      `link ${name} exists and was not made by tsnet; remove it or choose another name`,
    );
  // Any other text is what somebody noted about it.
  if (ownerOf(link.alias)) throw new ConflictError(`link ${name} exists and belongs to "${link.alias}"`);
}

/** Both parts of the mark by which a link is known as tsnet's, and whose it is. */
export function mark(alias: string): LinkSettings {
  return { alias, group: LINK_GROUP };
}

/** Whether nothing says that it was made by tsnet. */
export function isForeign({ group, alias }: Link): boolean {
  return group !== LINK_GROUP && ownerOf(alias) === undefined;
}

/**
 * Gives a link of ours that somebody has renamed its name back, and applies its step to it. Asked only where none has
 * that name.
 *
 * @returns how it was: `name otto`; undefined if there is no such link
 */
export async function nameBack(
  { links }: { readonly links: Links },
  { name, kind, alias }: { readonly name: string; readonly kind: LinkKind; readonly alias: string },
  step: Pick<Step, "apply">,
): Promise<string | undefined> {
  const renamed = (await links.list(kind)).find((link) => link.alias === alias && link.group === LINK_GROUP);
  if (!renamed) return undefined;
  await links.rename(renamed, name);
  await step.apply();
  return `name ${renamed.name}`;
}

/** Sets what differs. Resolves to how that was, or false if nothing did. */
export async function setDiffering(
  where: { readonly links: Links },
  link: Link,
  wanted: LinkSettings,
): Promise<string | false> {
  const entries = Object.entries(wanted);
  const differing = entries.filter(([key, value]) => link[key as keyof Link] !== value);
  if (differing.length === 0) return false;
  const { isolated, hairpin, ...rest } = Object.fromEntries(differing) as LinkSettings;
  if (Object.keys(rest).length > 0) await where.links.set(link.name, rest);
  // A link that became a port has none of its flags, and takes none in the request that makes it one.
  const flags = rest.master === undefined ? { isolated, hairpin } : wanted;
  const port = {
    ...(flags.isolated === undefined ? {} : { isolated: flags.isolated }),
    ...(flags.hairpin === undefined ? {} : { hairpin: flags.hairpin }),
  };
  if (Object.keys(port).length > 0) await where.links.set(link.name, port);
  return differing.map(([key]) => `${key} ${link[key as keyof Link]}`).join(", ");
}

/** Sends a link on its way out. One of that name that is not ours stays. Resolves to whether there was one of ours. */
export async function discardOwn(host: Host, name: string, alias: string): Promise<boolean> {
  const there = await host.links.get(name);
  if (!there || there.group === LEAVING_GROUP) return false;
  try {
    mustBeOurs(there, there.kind, alias);
  } catch {
    return false;
  }
  await host.discard(name);
  return true;
}
