import { ConflictError, InvalidError, reason } from "../errors.ts";
import { FAMILIES, type Family, bracketed, parseIp } from "../ip.ts";
import type { Reservations } from "../kernel/reservations.ts";
import { readSysctl } from "../kernel/sysctl.ts";
import { type Endpoint, type PortBinding, type PublishedPort, addressOf, isSameHostPort } from "../model.ts";
import type { PublishDefault } from "./bridge-options.ts";
import { relayedTo } from "./relayed.ts";

/** How often an ephemeral port that is free for one family but not for the other is tried again. */
const ATTEMPTS = 64;

/** How a network publishes, per family. */
export interface Publishing {
  readonly bridge: string;
  /** Host address for bindings that name none; absent where that family publishes nothing by default. */
  readonly defaultAddress: PublishDefault;
  /** Families whose containers are reached at their own address, so that nothing is translated. */
  readonly routed: readonly Family[];
  /** Whether the network's containers may reach each other. */
  readonly icc: boolean;
  /** The bridge's addresses, with prefix length. */
  readonly gateways: readonly string[];
}

/** A bare address of the host's, and its family. */
interface HostAddress {
  readonly family: Family;
  readonly address: string;
}

/** Chooses the host ports of what a container publishes. */
export class PortChoice {
  readonly #reservations: Reservations;
  readonly #publishing: Publishing;
  readonly #endpoint: Endpoint;
  readonly #elsewhere: readonly Family[];

  /** @param elsewhere families that another endpoint of the container publishes for, if this one does not have them */
  constructor(
    reservations: Reservations,
    publishing: Publishing,
    endpoint: Endpoint,
    elsewhere: readonly Family[],
  ) {
    this.#reservations = reservations;
    this.#publishing = publishing;
    this.#endpoint = endpoint;
    this.#elsewhere = elsewhere;
  }

  /**
   * Chooses and takes them. When one cannot be had, none is kept.
   *
   * @throws {ConflictError} that names address, port and who has it
   */
  take(bindings: readonly PortBinding[]): PublishedPort[] {
    const chosen: PublishedPort[] = [];
    // One that has a choice must not take what another one cannot do without.
    const exactFirst = bindings.toSorted((a, b) => Number(hasChoice(a)) - Number(hasChoice(b)));
    try {
      for (const binding of exactFirst) chosen.push(...this.#takeOne(binding, chosen));
      return chosen;
    } catch (error) {
      const before = this.#endpoint.ports ?? [];
      for (const port of chosen)
        // What was published before and was chosen again stays.
        if (port.host && !before.some((old) => isSameHostPort(old, port)))
          this.#release(port.protocol, port.host);
      throw error;
    }
  }

  #takeOne(binding: PortBinding, chosen: readonly PublishedPort[]): PublishedPort[] {
    const { protocol, containerPort } = binding;
    const addresses = this.#addressesOf(binding);
    const isRouted = ({ family }: HostAddress) => this.#publishing.routed.includes(family);
    const [routed, translated] = [addresses.filter(isRouted), addresses.filter((one) => !isRouted(one))];
    const port = translated.length > 0 ? this.#takeSame(binding, translated, chosen) : 0;
    return [
      ...routed.map(({ family }) => ({ protocol, containerPort, family })),
      ...translated.map(({ family, address }) => ({
        protocol,
        containerPort,
        family,
        host: { address, port },
      })),
    ];
  }

  /** One port number for all the addresses, as the engine has it. */
  #takeSame(
    binding: PortBinding,
    addresses: readonly HostAddress[],
    chosen: readonly PublishedPort[],
  ): number {
    const { protocol, hostPort, hostPortEnd } = binding;
    const own = new Set(
      chosen.filter((port) => port.protocol === protocol).map(({ host }) => `${host?.address} ${host?.port}`),
    );
    const candidates =
      hostPort === 0
        ? [...this.#previousPorts(binding, addresses), ...new Array<number>(ATTEMPTS).fill(0)]
        : range(hostPort, hostPortEnd);
    let last: unknown;
    for (const [index, port] of candidates.entries())
      try {
        return this.#takeOnAll(addresses, { protocol, port }, own, index === candidates.length - 1);
      } catch (error) {
        last = error;
      }
    throw candidates.length > 1 && hostPort !== 0
      ? new ConflictError(`no port of ${hostPort}-${hostPortEnd} is free: ${reason(last)}`, { cause: last })
      : last;
  }

  /**
   * Takes one port number at all the addresses, or none of them.
   *
   * @param port 0 for any
   * @param own address and port of what the container was given already by the same request
   * @param search for the process that has it
   */
  #takeOnAll(
    addresses: readonly HostAddress[],
    { protocol, port }: Pick<PublishedPort, "protocol"> & { readonly port: number },
    own: ReadonlySet<string>,
    search: boolean,
  ): number {
    const taken: { address: string; port: number }[] = [];
    let number = port;
    try {
      for (const { family, address } of addresses) {
        if (own.has(`${address} ${number}`))
          throw new ConflictError(
            `cannot publish ${bracketed(address)}:${number}/${protocol}: this container asks for it twice`,
          );
        const admitted = relayedTo(this.#publishing, this.#endpoint, { protocol, family, host: { address } });
        const wanted = { protocol, address, port: number };
        const result = this.#reservations.take(holderOf(this.#endpoint), wanted, admitted, search);
        number = result.port;
        if (result.taken) taken.push({ address, port: number });
      }
      return number;
    } catch (error) {
      for (const one of taken) this.#release(protocol, one);
      throw error;
    }
  }

  #release(protocol: PublishedPort["protocol"], host: { readonly address: string; readonly port: number }) {
    this.#reservations.release(holderOf(this.#endpoint), { protocol, ...host });
  }

  /** What an ephemeral binding was given before, so that asking again changes nothing. */
  #previousPorts({ protocol, containerPort }: PortBinding, addresses: readonly HostAddress[]): number[] {
    const { ports = [] } = this.#endpoint;
    const same = ports.filter((port) => port.protocol === protocol && port.containerPort === containerPort);
    return same.flatMap(({ host }) =>
      host && addresses.some(({ address }) => address === host.address) ? host.port : [],
    );
  }

  /** The host addresses of a binding: the one it names, else the network's default of each family. */
  #addressesOf({ protocol, hostAddress, containerPort }: PortBinding): HostAddress[] {
    const { defaultAddress, routed } = this.#publishing;
    const has = (family: Family) => addressOf(this.#endpoint, family) !== undefined;
    // A relay leads from one family to the other.
    const relays = protocol !== "sctp" && routed.length === 0 && FAMILIES.some(has);
    const reaches = (family: Family) => has(family) || (relays && (family === 4 || loopbackHasIpv6()));
    const isLeft = (family: Family) => !has(family) && this.#elsewhere.includes(family);
    if (hostAddress) {
      const { family } = parseIp(hostAddress);
      if (isLeft(family)) return [];
      if (!reaches(family))
        throw new InvalidError(
          `cannot publish ${hostAddress} to container port ${containerPort}: the container has no IPv${family} address`,
        );
      return [{ family, address: hostAddress }];
    }
    return FAMILIES.flatMap((family) => {
      const address = defaultAddress[family];
      return address && reaches(family) && !isLeft(family) ? [{ family, address }] : [];
    });
  }
}

/** What an endpoint's ports are reserved as. */
export function holderOf({ id, network }: Endpoint): string {
  return `endpoint ${id.slice(0, 12)} of network ${network.slice(0, 12)}`;
}

function hasChoice({ hostPort, hostPortEnd }: PortBinding): boolean {
  return hostPort === 0 || hostPort !== hostPortEnd;
}

function range(first: number, last: number): number[] {
  return Array.from({ length: last - first + 1 }, (_, offset) => first + offset);
}

/** Whether the host's loopback has an IPv6 address. */
function loopbackHasIpv6(): boolean {
  return readSysctl("net/ipv6/conf/lo/disable_ipv6") === "0";
}
