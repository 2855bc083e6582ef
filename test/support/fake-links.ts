import { KernelError } from "../../src/errors.ts";
import type { LinkAddress } from "../../src/kernel/address.ts";
import type { Host } from "../../src/kernel/host.ts";
import type { Link, LinkKind, LinkSettings, NewLink } from "../../src/kernel/link.ts";

type FakeLink = Link & Pick<NewLink, "vlan">;

/** The links of a host that there is not, for what the test kernel lacks. */
export class FakeLinks {
  /** Kinds that can be made. */
  kinds: readonly LinkKind[] = ["bridge", "veth", "macvlan", "vlan", "dummy", "ifb"];
  /** What was asked of it, in order: `add eth0.50 vlan`, `discard eth0.50`. */
  readonly calls: string[] = [];
  /** What {@link Host.addresses} lists. */
  addresses: LinkAddress[] = [];
  readonly #links = new Map<string, FakeLink>();

  /** Puts a link there as somebody else would. */
  plug(name: string, settings: Partial<Link> = {}): void {
    const index = this.#links.size + 1;
    const kind = "";
    const defaults = { mac: "02:00:00:00:00:01", mtu: 1500, up: true, carrier: true, ethernet: true };
    const rest = {
      master: 0,
      lower: 0,
      lowerElsewhere: false,
      alias: "",
      group: 0,
      isolated: false,
      hairpin: false,
      gsoMaxSize: 65_536,
      gsoLimit: 0,
    };
    this.#links.set(name, { ...defaults, ...rest, index, name, kind, ...settings });
  }

  unplug(name: string): void {
    this.#links.delete(name);
  }

  get(name: string): FakeLink | undefined {
    return this.#links.get(name);
  }

  /** As far as plans of backends use a host. */
  get host(): Host {
    const links = {
      get: async (name: string) => this.get(name),
      at: async (index: number) => [...this.#links.values()].find((link) => link.index === index),
      list: async (only?: LinkKind) =>
        [...this.#links.values()].filter(({ kind }) => only === undefined || kind === only),
      canMake: async (kind: LinkKind) => this.kinds.includes(kind),
      add: async (link: NewLink) => {
        if (!this.kinds.includes(link.kind)) throw new KernelError("ip link add", "EOPNOTSUPP");
        if (this.get(link.name)) throw new KernelError("ip link add", "EEXIST");
        this.calls.push(`add ${link.name} ${link.kind}`);
        this.plug(link.name, { up: false, ...link });
      },
      set: async (name: string, settings: LinkSettings) => {
        const link = this.get(name);
        if (!link) throw new KernelError(`ip link set ${name}`, "ENODEV");
        const below = [...this.#links.values()].find(({ index }) => index === link.vlan?.parent);
        // As vlan_dev_open of the kernel.
        if (settings.up && below && !below.up) throw new KernelError(`ip link set ${name} up`, "ENETDOWN");
        this.#links.set(name, { ...link, ...settings });
      },
    };
    const host = {
      links,
      link: links.get,
      addresses: { on: async () => [], list: async () => this.addresses },
      neighbours: { takenBy: async () => new Set() },
      bigPackets: async () => 0,
      discard: async (name: string) => {
        this.calls.push(`discard ${name}`);
        this.unplug(name);
      },
    };
    return host as unknown as Host;
  }
}
