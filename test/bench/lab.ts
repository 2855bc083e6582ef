import type Docker from "dockerode";
import type { EngineLine } from "../lab/engines.ts";
import { LabHost } from "../lab/host.ts";
import { BOX } from "../lab/image.ts";
import { Underlay } from "../lab/underlay.ts";

/** Who is compared: tsnet, and the engine's own driver for the same kind of network. */
export const SIDES = ["tsnet", "engine"] as const;
export type Side = (typeof SIDES)[number];

/** One side of a comparison, with what its networks are made of. */
export interface Contender {
  readonly side: Side;
  readonly driver: string;
  readonly options: Readonly<Record<string, string>>;
  /** Absent: the engine chooses. */
  readonly subnet?: string;
}

/** Bridge networks with nothing chosen, as most people make them. */
export const BRIDGES: readonly Contender[] = [
  { side: "tsnet", driver: "tsnet", options: {} },
  { side: "engine", driver: "bridge", options: {} },
];

/** The same with packets larger than 64 KiB between containers, which the engine's driver does not have. */
export const BIG_TCP: readonly Contender[] = BRIDGES.map((contender) =>
  contender.side === "tsnet" ? { ...contender, options: { big_tcp: "true" } } : contender,
);

/** A host with an engine and tsnet on it, and a neighbour on the same wire that has neither. */
export class BenchLab {
  readonly host: LabHost;
  readonly neighbour: LabHost;
  readonly #underlay: Underlay;

  private constructor(underlay: Underlay, host: LabHost, neighbour: LabHost) {
    this.#underlay = underlay;
    this.host = host;
    this.neighbour = neighbour;
  }

  /** Starts everything; on failure nothing is left. */
  static async start(engine: EngineLine, tsnetArgs: readonly string[]): Promise<BenchLab> {
    const underlay = await Underlay.start({ name: "bench-wire" });
    try {
      const neighbour = await LabHost.start({ name: "neighbour", underlay });
      try {
        const host = await LabHost.start({ name: "bench", engine, underlay, tsnet: true, tsnetArgs });
        return new BenchLab(underlay, host, neighbour);
      } catch (error) {
        await neighbour.stop();
        throw error;
      }
    } catch (error) {
      await underlay.stop();
      throw error;
    }
  }

  /** The Engine API. Node keeps the connection open, so that no request pays for a new one. */
  get api(): Docker {
    return this.host.api;
  }

  /** Makes a network. */
  async createNetwork({ driver, options, subnet }: Contender, name: string): Promise<Docker.Network> {
    return await this.api.createNetwork({
      Name: name,
      Driver: driver,
      Options: { ...options },
      ...(subnet === undefined ? {} : { IPAM: { Config: [{ Subnet: subnet }] } }),
    });
  }

  /** Makes a container that sleeps; it is not started. */
  async createContainer(
    name: string,
    network: string,
    ports: Docker.PortMap = {},
  ): Promise<Docker.Container> {
    return await this.api.createContainer({
      Image: BOX,
      name,
      ExposedPorts: Object.fromEntries(Object.keys(ports).map((port) => [port, {}])),
      HostConfig: { NetworkMode: network, PortBindings: ports },
    });
  }

  /** Ends everything. */
  async stop(): Promise<void> {
    await this.host.stop();
    await this.neighbour.stop();
    await this.#underlay.stop();
  }
}

/** Makes something, uses it, and removes it whatever happened. */
export async function using<T, R>(
  made: T,
  remove: (made: T) => Promise<unknown>,
  use: (made: T) => Promise<R>,
): Promise<R> {
  try {
    return await use(made);
  } finally {
    await remove(made);
  }
}
