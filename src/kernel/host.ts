import { isErrno } from "../errors.ts";
import { isEverywhere } from "../ip.ts";
import { LEAVING_GROUP } from "../names.ts";
import { Addresses } from "./address.ts";
import { Conntrack } from "./conntrack.ts";
import { LinkRemover } from "./link-remover.ts";
import { type Link, Links } from "./link.ts";
import { Neighbours } from "./neighbour.ts";
import { type KernelEvent, Rtnetlink } from "./netlink/rtnetlink.ts";
import { Routes } from "./route.ts";

/** The network namespace the daemon runs in, which must be the engine's. */
export class Host {
  readonly #netlink = new Rtnetlink();
  readonly links = new Links(this.#netlink);
  readonly addresses = new Addresses(this.#netlink);
  readonly neighbours = new Neighbours(this.#netlink);
  readonly routes = new Routes(this.#netlink);
  readonly flows = new Conntrack((address) => this.routes.isLocal(address));
  readonly #remover: LinkRemover;
  #bigPackets: number | undefined;

  /** @param onFailure is told when links could not be deleted; it is tried again with the next ones */
  constructor(onFailure: (error: unknown) => void) {
    this.#remover = new LinkRemover(onFailure);
  }

  /** The link of that name, or undefined. One on its way out is waited for. */
  async link(name: string): Promise<Link | undefined> {
    const there = await this.links.get(name);
    if (there?.group !== LEAVING_GROUP) return there;
    // A daemon that was killed may have sent it on its way, and then nobody is at it.
    this.#remover.start();
    await this.#remover.gone();
    this.links.forget();
    return await this.links.get(name);
  }

  /**
   * Sends a link on its way out: from now on it is nobody's, and it goes within some 30 ms, with its peer if it is
   * half of a veth pair. Being gone already is success.
   */
  async discard(name: string): Promise<void> {
    try {
      await this.links.set(name, { group: LEAVING_GROUP });
    } catch (error) {
      if (isErrno(error, "ENODEV")) return;
      throw error;
    }
    this.#remover.start();
  }

  /** Waits until no link is on its way out. */
  async leavingsGone(): Promise<void> {
    await this.#remover.gone();
  }

  /** Deletes what a daemon that was killed had sent on its way. */
  discardLeavings(): void {
    this.#remover.start();
  }

  /**
   * How large a packet on a veth pair may be before it is cut to the MTU (BIG TCP); 0 where the kernel lacks it.
   * Loopback tells: it has the kernel's own limit, as a veth pair has, while a bridge has that of its ports.
   */
  async bigPackets(): Promise<number> {
    this.#bigPackets ??= (await this.links.get("lo"))?.gsoLimit ?? 0;
    return this.#bigPackets;
  }

  /** The link that the default route leads through; undefined where there is none. */
  async uplink(): Promise<Link | undefined> {
    const defaults = (await this.routes.list()).filter(
      ({ subnet, link }) => isEverywhere(subnet) && link !== 0,
    );
    const [best] = defaults.sort((a, b) => a.metric - b.metric);
    return best && (await this.links.at(best.link));
  }

  /** Calls back for every change to a link, an address, a route or a neighbour. */
  watch(onEvent: (event: KernelEvent) => void): void {
    this.#netlink.watch(onEvent);
  }

  /** Waits for links on their way out, then closes the sockets. */
  async close(): Promise<void> {
    await this.#remover.close();
    await this.flows.close();
    this.#netlink.close();
  }
}
