import { Lan, PARENT, lanAddress } from "../e2e/lan.ts";
import { install } from "../lab/debian.ts";
import type { LabHost } from "../lab/host.ts";
import type { Plan } from "./world.ts";

/** The LAN's addresses that the engine may give to containers. */
const LAN_RANGES = ["--ip-range", "10.77.0.128/25", "--ip-range", "fd77::1:0/112"];
const HOST_NUMBER = 11;

/** Where a soak takes place: a host with engine and tsnet, a neighbour, and a LAN for macvlan networks. */
export class Ground {
  readonly host: LabHost;
  /** A host without engine on the same wire. */
  readonly neighbour: LabHost;
  readonly lan: Lan;

  private constructor(host: LabHost, neighbour: LabHost, lan: Lan) {
    this.host = host;
    this.neighbour = neighbour;
    this.lan = lan;
  }

  /** The host is not on the LAN yet. */
  static async prepare(host: LabHost, neighbour: LabHost): Promise<Ground> {
    await install("curl", "iputils-ping");
    return new Ground(host, neighbour, await Lan.start());
  }

  /** The networks there may be. In the order of their names bridges come first, and so publish their containers' ports. */
  get plans(): readonly Plan[] {
    const macvlan = ["-o", `parent=${PARENT}`, "-o", "host_access=on", ...Lan.subnets, ...LAN_RANGES];
    return [
      ...[1, 2, 3].map((number): Plan => ({
        ...ownSubnets(number),
        name: `b${String(number)}`,
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

  /** Ends the LAN. */
  async stop(): Promise<void> {
    await this.lan.stop();
  }
}

function ownSubnets(number: number): Pick<Plan, "args"> {
  const digit = String(number);
  return { args: ["--ipv6", "--subnet", `10.30.${digit}.0/24`, "--subnet", `fd30:${digit}::/64`] };
}
