import { type CommandOptions, type CommandResult, CommandError } from "../lab/command.ts";
import type { EngineLine } from "../lab/engines.ts";
import type { LabHost } from "../lab/host.ts";
import { BOX } from "../lab/image.ts";
import { hostWith, theNeighbour } from "./machines.ts";

/** Somewhere a command can run: a host, or one of the machine's tools in a container's network namespace. */
export interface Place {
  readonly exec: (argv: readonly string[], options?: CommandOptions) => Promise<CommandResult>;
}

/** A pair of subnets that nothing else in this process uses. */
export interface Subnets {
  readonly v4: string;
  readonly v6: string;
  /** Bare address with that number in the subnet, 1 to 254. */
  readonly ip: (number: number) => string;
  readonly ip6: (number: number) => string;
}

let numbered = 0;

/** Subnets for a test of its own. */
export function subnets(): Subnets {
  numbered += 1;
  // Of 10.20.0.0/14, with room for a thousand.
  const v4 = `10.${String(20 + (numbered >> 8))}.${String(numbered & 255)}`;
  const v6 = `fd20:${numbered.toString(16)}`;
  return {
    v4: `${v4}.0/24`,
    v6: `${v6}::/64`,
    ip: (number) => `${v4}.${String(number)}`,
    ip6: (number) => `${v6}::${number.toString(16)}`,
  };
}

/** A host with one engine and tsnet on it, what tests do there, and how it is cleaned. */
export class Site implements Place {
  readonly line: EngineLine;
  #host: LabHost | undefined;
  #neighbour: LabHost | undefined;
  #undo: (() => Promise<unknown>)[] = [];

  constructor(line: EngineLine) {
    this.line = line;
  }

  /** The host; it runs from the suite's first hook on. */
  get host(): LabHost {
    if (!this.#host) throw new Error(`engine ${this.line} is not running yet`);
    return this.#host;
  }

  /** A host without engine on the same wire; it says whose address it sees (see `seenAs`). */
  get neighbour(): LabHost {
    if (!this.#neighbour) throw new Error("the neighbour is not running yet");
    return this.#neighbour;
  }

  /** Bare addresses of the host on the wire. */
  get address(): { readonly v4: string; readonly v6: string } {
    return addressOf(this.host);
  }

  /** Bare addresses of the neighbour. */
  get neighbourAddress(): { readonly v4: string; readonly v6: string } {
    return addressOf(this.neighbour);
  }

  /**
   * Starts whatever does not run yet.
   *
   * @throws {EngineUnavailableError} where the engine cannot be fetched
   */
  async open(): Promise<void> {
    this.#neighbour = await theNeighbour();
    this.#host = await hostWith(this.line);
  }

  /** Runs a command on the host. */
  exec(argv: readonly string[], options?: CommandOptions): Promise<CommandResult> {
    return this.host.exec(argv, options);
  }

  /** Runs `docker`. @returns its output without space around it */
  docker(...args: string[]): Promise<string> {
    return this.host.docker(...args);
  }

  /** Runs `docker`, which must fail. @returns what it says */
  async refused(...args: string[]): Promise<string> {
    try {
      await this.docker(...args);
    } catch (error) {
      if (error instanceof CommandError) return error.result.stderr.trim();
      throw error;
    }
    throw new Error(`docker ${args.join(" ")} did not fail`);
  }

  /** Makes a network of tsnet's. @returns its id */
  network(name: string, ...args: string[]): Promise<string> {
    return this.docker("network", "create", "-d", "tsnet", ...args, name);
  }

  /** Starts a container that sleeps. @param args more of `docker run` */
  async run(name: string, network: string, ...args: string[]): Promise<Place> {
    await this.docker("run", "-d", "--name", name, "--network", network, ...args, BOX);
    return this.container(name);
  }

  /** The network namespace that the container has at the time of each call. */
  container(name: string): Place {
    return { exec: (argv, options) => this.host.inContainer(name, argv, options) };
  }

  /** What the engine says of a container's attachment. */
  async attachment(container: string, network: string): Promise<Attachment> {
    const { NetworkSettings: settings } = await this.host.api.getContainer(container).inspect();
    const found = settings.Networks[network];
    if (!found) throw new Error(`${container} is not on ${network}`);
    return { id: found.EndpointID, v4: found.IPAddress, v6: found.GlobalIPv6Address, mac: found.MacAddress };
  }

  /** Gives an IPv4 subnet's or IPv6 subnet's route to the neighbour, by way of the host, until `clear`. */
  async routeFromNeighbour({ v4, v6 }: Subnets): Promise<void> {
    const { neighbour, address } = this;
    for (const [subnet, via] of [
      [v4, address.v4],
      [v6, address.v6],
    ] as const) {
      await neighbour.exec(["ip", "route", "add", subnet, "via", via]);
      this.later(() => neighbour.exec(["ip", "route", "del", subnet, "via", via]));
    }
  }

  /** Has something undone by `clear`, last first, once no container and no network is left. */
  later(undo: () => Promise<unknown>): void {
    this.#undo.push(undo);
  }

  /** Removes every container, running or not. */
  async removeContainers(): Promise<void> {
    const { api } = this.host;
    const containers = await api.listContainers({ all: true });
    await Promise.all(containers.map(({ Id }) => api.getContainer(Id).remove({ force: true })));
  }

  /** Removes every container and network that a test made, then what it had put off. */
  async clear(): Promise<void> {
    if (!this.#host) return;
    await this.removeContainers();
    await this.#removeNetworks().catch(async (error: unknown) => {
      // With many containers removed at once, 20.10 may count an endpoint that it no longer has, until it is started again.
      if (!String(error).includes("has active endpoints") || (await this.#hasEndpoints())) throw error;
      await this.host.stopEngine();
      await this.host.startEngine();
      await this.#removeNetworks();
    });
    for (const undo of this.#undo.splice(0).reverse()) await undo();
  }

  async #removeNetworks(): Promise<void> {
    for (const { Id } of await this.#networks()) await this.host.api.getNetwork(Id).remove();
  }

  /** Whether any endpoint is left on them, as the engine says it. */
  async #hasEndpoints(): Promise<boolean> {
    const views = (await this.#networks()).map(({ Id }) => this.host.api.getNetwork(Id).inspect());
    return (await Promise.all(views)).some(({ Containers = {} }) => Object.keys(Containers).length > 0);
  }

  async #networks(): Promise<{ readonly Id: string }[]> {
    return (await this.host.api.listNetworks()).filter(({ Name }) => !BUILT_IN.has(Name));
  }
}

/** A container's place in a network, as `docker inspect` shows it. */
export interface Attachment {
  /** The endpoint's id. */
  readonly id: string;
  /** Bare addresses, empty where there is none. */
  readonly v4: string;
  readonly v6: string;
  readonly mac: string;
}

const BUILT_IN = new Set(["bridge", "host", "none"]);

function addressOf({ address, name }: LabHost): { readonly v4: string; readonly v6: string } {
  if (!address) throw new Error(`${name} has no address`);
  return address;
}
