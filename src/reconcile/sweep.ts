import type { Firewall } from "../firewall/firewall.ts";
import type { Host } from "../kernel/host.ts";
import type { Link } from "../kernel/link.ts";
import { LINK_GROUP, hostEndOf, ownerOf, ruleComment } from "../names.ts";
import { leaveToOthers } from "../steps/parent.ts";
import type { State } from "../store/state.ts";
import type { Health } from "./health.ts";
import type { ParentWatch } from "./parent-watch.ts";

/** Deletes what carries tsnet's mark and belongs to nothing on record. */
export class Sweep {
  readonly #state: State;
  readonly #host: Host;
  readonly #firewall: Firewall;
  readonly #parents: ParentWatch;
  readonly #health: Health;
  readonly #engineNetworks: () => Promise<ReadonlySet<string> | undefined>;
  /** Links with tsnet's mark, from when that was prepared until they have been looked at. */
  #marked: readonly Link[] = [];
  #nameless: ReadonlySet<number> = new Set();
  /** Whether what no record is of may be deleted. */
  #allowed = false;

  /** @param engineNetworks ids of the networks that the engine has; undefined while it does not answer */
  constructor(
    state: State,
    host: Host,
    firewall: Firewall,
    parents: ParentWatch,
    health: Health,
    engineNetworks: () => Promise<ReadonlySet<string> | undefined>,
  ) {
    this.#state = state;
    this.#host = host;
    this.#firewall = firewall;
    this.#parents = parents;
    this.#health = health;
    this.#engineNetworks = engineNetworks;
  }

  /**
   * Finds out whether anything may be deleted: not while the engine has networks that are on the host and not on
   * record. Then the records are elsewhere, as when the disk that they are on is not mounted, and all of it is in use.
   */
  async prepare(): Promise<void> {
    this.#marked = await this.#listMarked();
    const unrecorded = await this.#unrecorded();
    this.#allowed = unrecorded?.length === 0;
    if (unrecorded)
      this.#health.report(
        "records",
        this.#allowed
          ? ""
          : `missing for networks that the engine has: ${unrecorded.join(", ")}; start the daemon with the --state-dir that has them, or delete the networks with \`docker network rm\``,
      );
  }

  /** Ids of such networks; undefined while nobody can tell. */
  async #unrecorded(): Promise<string[] | undefined> {
    const owners = await this.#firewall.owners();
    for (const link of this.#marked) {
      const network = networkOfLink(link);
      if (network !== undefined) owners.add(ruleComment(network));
    }
    // Asked for afterwards: a network is on record before it is on the host.
    for (const { id } of this.#state.networks()) owners.delete(ruleComment(id));
    if (owners.size === 0) return [];
    const known = await this.#engineNetworks();
    return known && [...known].filter((id) => owners.has(ruleComment(id)) && !this.#state.network(id));
  }

  /** Deletes a network's links and rules, whatever else is allowed, unless it is on record. */
  async network(id: string): Promise<void> {
    if (this.#state.network(id)) return;
    const marked = await this.#listMarked();
    const own = marked.filter((link) => networkOfLink(link) === id);
    const ports = marked.filter(({ master }) => own.some(({ index }) => index === master));
    for (const { name, alias } of [...ports, ...own]) {
      this.#health.repaired("orphan", `link ${name} of ${alias || "nobody"}`);
      await this.#host.discard(name);
    }
    await this.#deleteRules(ruleComment(id));
  }

  async #listMarked(): Promise<Link[]> {
    return (await this.#host.links.list()).filter(({ group }) => group === LINK_GROUP);
  }

  /** Deletes links. */
  async links(): Promise<void> {
    const marked = this.#marked;
    this.#marked = [];
    if (!this.#allowed) return;
    const names = new Set(marked.map(({ name }) => name));
    const nameless = new Set(marked.filter(({ alias }) => !alias).map(({ index }) => index));
    for (const link of marked) {
      const { name, kind, alias, index } = link;
      // The far end of a pair has no alias, and goes with its near end.
      if ((kind === "veth" && names.has(hostEndOf(name) ?? "")) || this.#isWanted(link)) continue;
      // A link gets its alias just after it was made: without one it is an orphan the second time it is seen.
      if (!alias && !this.#nameless.has(index)) continue;
      // One that was deleted since they were listed was on its way out before its record went.
      const now = await this.#host.links.at(index);
      if (now?.group !== LINK_GROUP || this.#isWanted(now)) continue;
      const used = ownerOf(alias)?.kind === "parent" && (await leaveToOthers(this.#host, link));
      this.#health.repaired(
        "orphan",
        `link ${name} of ${alias || "nobody"}${used ? ", left to others" : ""}`,
      );
      if (!used) await this.#host.discard(name);
    }
    this.#nameless = nameless;
  }

  #isWanted({ name, alias }: Link): boolean {
    // Somebody may have written another alias, and its repair may have failed.
    const owner = ownerOf(alias) ?? this.#state.ownerOfLink(name);
    if (owner?.kind === "network") return this.#state.network(owner.id) !== undefined;
    if (owner?.kind === "shim") return this.#state.endpoints(owner.id).length > 0;
    if (owner?.kind === "parent") return this.#parents.on(owner.id).length > 0;
    return owner !== undefined && this.#state.networkOf(owner.id) !== undefined;
  }

  /** Deletes routes and neighbour entries of endpoints. */
  async entries(): Promise<void> {
    if (!this.#allowed) return;
    for (const entry of await this.#parents.orphans(this.#host)) {
      this.#health.repaired("orphan", entry.what);
      await entry.delete();
    }
  }

  /** Deletes rules of networks. */
  async rules(): Promise<void> {
    if (!this.#allowed) return;
    const owners = await this.#firewall.owners();
    // Asked for afterwards: a network is on record before it has rules.
    const known = new Set(this.#state.networks().map(({ id }) => ruleComment(id)));
    for (const owner of owners) {
      if (!known.has(owner)) await this.#deleteRules(owner);
    }
  }

  async #deleteRules(owner: string): Promise<void> {
    const { extra } = await this.#firewall.repair(owner, []);
    for (const rule of extra) this.#health.repaired("orphan", `rule ${rule}`);
  }
}

/** The network whose own a link is; undefined for an endpoint's. */
function networkOfLink({ alias }: Link): string | undefined {
  const owner = ownerOf(alias);
  return owner?.kind === "network" || owner?.kind === "shim" ? owner.id : undefined;
}
