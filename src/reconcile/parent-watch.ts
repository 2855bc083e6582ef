import type { Driver } from "../driver.ts";
import type { Host } from "../kernel/host.ts";
import { type Link, macvlanLower } from "../kernel/link.ts";
import type { KernelEvent } from "../kernel/netlink/rtnetlink.ts";
import { type Endpoint, type Network, lanAddresses } from "../model.ts";
import type { LinkOwner } from "../names.ts";
import type { State } from "../store/state.ts";
import { type OwnEntry, lostAddress, ownEntries } from "./own-entries.ts";

/** Whom a kernel event concerns beyond the owner of the link it is about: networks that sit on a link of the host's. */
export class ParentWatch {
  readonly #driver: Driver;
  readonly #state: State;
  /** How each parent was when it was last seen, by its name. */
  readonly #seen = new Map<string, string>();
  /** What every link was last called, by its index: of a rename the kernel tells the new name alone. */
  #names = new Map<number, string>();
  /**
   * The networks on each parent, worked out for the networks beside it: most hosts have none, and events come often.
   */
  #onParent: ReadonlyMap<string, readonly Network[]> = new Map();
  #networks: readonly Network[] = [];

  constructor(driver: Driver, state: State) {
    this.#driver = driver;
    this.#state = state;
  }

  /** Whether any network sits on a link. */
  get any(): boolean {
    return this.#parents().size > 0;
  }

  /** The networks that sit on a link. */
  on(link: string): readonly Network[] {
    return this.#parents().get(link) ?? [];
  }

  /** Learns what the links are called, before all of it is looked at: events may have been lost, or not heard yet. */
  learn(links: readonly Pick<Link, "index" | "name">[]): void {
    this.#names = new Map(links.map(({ index, name }) => [index, name]));
    this.#seen.clear();
  }

  /**
   * The networks that have to be looked after because of a change to a link. The kernel also tells of a parent
   * whenever a link on it comes or goes, which is nothing to look after all of them for; see {@link missing}.
   */
  changed(link: Link, gone: boolean): readonly Network[] {
    const { name, index, up, carrier, master, mtu, gsoMaxSize } = link;
    const former = this.#names.get(index) ?? name;
    if (gone) this.#names.delete(index);
    else this.#names.set(index, name);
    return [
      ...(former === name ? [] : this.#unlessSeen(former, "gone")),
      ...this.#unlessSeen(name, gone ? "gone" : [index, up, carrier, master, mtu, gsoMaxSize].join(" ")),
    ];
  }

  /** The networks on a link, unless it was seen like this before. */
  #unlessSeen(name: string, now: string): readonly Network[] {
    const networks = this.on(name);
    if (networks.length === 0) {
      this.#seen.delete(name);
      return [];
    }
    if (this.#seen.get(name) === now) return [];
    this.#seen.set(name, now);
    return networks;
  }

  /**
   * Endpoints whose links on a parent are not up in their sandboxes, or not there: somebody may have deleted one, which
   * is told in the sandbox and not here.
   */
  async missing(host: Host, parent: Link): Promise<Endpoint[]> {
    const taken = await host.neighbours.takenBy(macvlanLower(parent));
    const endpoints = this.on(parent.name).flatMap(({ id }) => this.#state.endpoints(id));
    return endpoints.filter(({ sandbox, mac }) => sandbox && !taken.has(mac));
  }

  /** The endpoint whose link went into its sandbox when it vanished from the host: of a veth pair, one end stays. */
  moved({ kind }: Link, owner: LinkOwner | undefined): Endpoint | undefined {
    if (kind === "veth") return undefined;
    const id = owner?.kind === "endpoint" ? this.#state.networkOf(owner.id) : undefined;
    const network = id && this.#state.network(id);
    if (!owner || !network || this.#driver.parents(network).length === 0) return undefined;
    const endpoint = this.#state.endpoint(network.id, owner.id);
    return endpoint?.sandbox ? endpoint : undefined;
  }

  /** The endpoints that an event says have lost what leads to them. */
  cutOff(event: KernelEvent): Endpoint[] {
    const address = lostAddress(event);
    if (!address) return [];
    return this.#endpoints().filter((endpoint) => lanAddresses(endpoint).includes(address));
  }

  /** What leads to no endpoint on record. */
  async orphans(host: Host): Promise<OwnEntry[]> {
    const entries = await ownEntries(host);
    const wanted = new Set(this.#endpoints().flatMap(lanAddresses));
    return entries.filter(({ address }) => !wanted.has(address));
  }

  /** Only of a network on a parent do routes and neighbour entries lead to endpoints. */
  #endpoints(): Endpoint[] {
    const networks = new Set([...this.#parents().values()].flat());
    return [...networks].flatMap(({ id }) => this.#state.endpoints(id));
  }

  #parents(): ReadonlyMap<string, readonly Network[]> {
    const networks = this.#state.networks();
    if (networks === this.#networks) return this.#onParent;
    const onParent = new Map<string, Network[]>();
    for (const network of networks)
      for (const link of this.#driver.parents(network))
        onParent.set(link, [...(onParent.get(link) ?? []), network]);
    this.#networks = networks;
    this.#onParent = onParent;
    return onParent;
  }
}
