import { Lan, PARENT, lanAddress } from "../e2e/lan.ts";
import { install } from "../lab/debian.ts";
import type { EngineLine } from "../lab/engines.ts";
import { LabHost } from "../lab/host.ts";
import { Underlay } from "../lab/underlay.ts";
import type { Plan } from "./world.ts";

/** The LAN's addresses that the engine may give to containers. */
const LAN_RANGES = ["--ip-range", "10.77.0.128/25", "--ip-range", "fd77::1:0/112"];
const HOST_NUMBER = 11;

/** Where a soak takes place: a host of its own with engine and tsnet, a neighbour, and a LAN for macvlan networks. */
export class Ground {
  readonly host: LabHost;
  /** A host without engine on the same wire. */
  readonly neighbour: LabHost;
  readonly lan: Lan;
  readonly #stop: () => Promise<void>;

  private constructor(parts: Pick<Ground, "host" | "neighbour" | "lan">, stop: () => Promise<void>) {
    this.host = parts.host;
    this.neighbour = parts.neighbour;
    this.lan = parts.lan;
    this.#stop = stop;
  }

  /**
   * Starts everything; the host is not on the LAN yet. On failure nothing is left.
   *
   * @throws {EngineUnavailableError} where the engine cannot be fetched
   */
  static async start(engine: EngineLine): Promise<Ground> {
    await install("curl", "iputils-ping");
    const started: { stop(): Promise<void> }[] = [];
    const stop = async () => {
      for (const part of started.reverse()) await part.stop();
    };
    const keep = <T extends { stop(): Promise<void> }>(part: T): T => {
      started.push(part);
      return part;
    };
    try {
      const underlay = keep(await Underlay.start({ name: "soak" }));
      const host = keep(await LabHost.start({ name: "soak", engine, underlay, tsnet: true }));
      const neighbour = keep(await LabHost.start({ name: "near", underlay }));
      return new Ground({ host, neighbour, lan: keep(await Lan.start()) }, stop);
    } catch (error) {
      await stop();
      throw error;
    }
  }

  /**
   * The networks there may be. In the order of their names bridges come first, and so publish their containers' ports. No
   * name can be the beginning of an id.
   */
  get plans(): readonly Plan[] {
    const macvlan = ["-o", `parent=${PARENT}`, "-o", "host_access=on", ...Lan.subnets, ...LAN_RANGES];
    return [
      ...[1, 2, 3].map((number): Plan => ({
        ...ownSubnets(number),
        name: `br${String(number)}`,
        backend: "bridge",
      })),
      { name: "m1", backend: "macvlan", args: macvlan },
      { ...ownSubnets(4), name: "m2", backend: "macvlan" },
    ];
  }

  async plug(): Promise<void> {
    await this.lan.plug(this.host, HOST_NUMBER);
  }

  async unplug(): Promise<void> {
    await this.lan.unplug(this.host);
  }

  /** The host's own address on the LAN. */
  get lanAddress(): { readonly v4: string; readonly v6: string } {
    return lanAddress(HOST_NUMBER);
  }

  /** Ends everything. */
  async stop(): Promise<void> {
    await this.#stop();
  }
}

function ownSubnets(number: number): Pick<Plan, "args"> {
  const digit = String(number);
  return { args: ["--ipv6", "--subnet", `10.30.${digit}.0/24`, "--subnet", `fd30:${digit}::/64`] };
}
