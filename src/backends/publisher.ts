import { ConflictError, InvalidError, reason } from "../errors.ts";
import type { Firewall } from "../firewall/firewall.ts";
import { openPortRule, portRules, relayedRule } from "../firewall/port-rules.ts";
import type { Rule } from "../firewall/rule.ts";
import { FAMILIES, type Family, UNSPECIFIED, bracketed, parseIp } from "../ip.ts";
import type { ServedPort } from "../kernel/conntrack.ts";
import type { Host } from "../kernel/host.ts";
import { Relay } from "../relay/relay.ts";
import { Reservations } from "../kernel/reservations.ts";
import { readSysctl } from "../kernel/sysctl.ts";
import {
  type Endpoint,
  type PortBinding,
  type PublishedPort,
  addressOf,
  isSameHostPort,
  targetOf,
} from "../model.ts";
import { ruleComment } from "../names.ts";
import type { Step } from "../step.ts";
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

/** How ports are chosen. */
interface Choosing extends Publishing {
  /** Families that another endpoint of the container publishes for, if this one does not have them. */
  readonly elsewhere: readonly Family[];
}

/** Published ports of bridge networks: a reservation on the host, and a translation in the kernel. */
export class Publisher {
  readonly #firewall: Firewall;
  readonly #flows: Host["flows"];
  readonly #reservations = new Reservations();
  readonly #relay = new Relay();

  constructor(host: Host, firewall: Firewall) {
    this.#firewall = firewall;
    this.#flows = host.flows;
  }

  /** Gives every port back; the rules stay. */
  close(): void {
    this.#relay.close();
    this.#reservations.close();
  }

  /**
   * Chooses and takes the host ports. When one cannot be had, none is kept.
   *
   * @throws {ConflictError} that names address, port and who has it
   */
  choose(publishing: Choosing, endpoint: Endpoint, bindings: readonly PortBinding[]): PublishedPort[] {
    const chosen: PublishedPort[] = [];
    // One that has a choice must not take what another one cannot do without.
    const exactFirst = bindings.toSorted((a, b) => Number(hasChoice(a)) - Number(hasChoice(b)));
    try {
      for (const binding of exactFirst)
        chosen.push(...this.#chooseOne(publishing, endpoint, binding, chosen));
      return chosen;
    } catch (error) {
      // What was published before and was chosen again stays.
      this.#release(
        endpoint,
        chosen.filter((port) => !endpoint.ports?.some((old) => isSameHostPort(old, port))),
      );
      throw error;
    }
  }

  /** What publishes an endpoint's ports. */
  steps(publishing: Publishing, endpoint: Endpoint): Step[] {
    const ports = endpoint.ports ?? [];
    if (ports.length === 0) return [];
    return [
      this.reservation(publishing, endpoint),
      this.#translation(endpoint, this.rules(publishing, endpoint)),
      ...ports.flatMap((port) => this.#relayed(publishing, endpoint, port)),
    ];
  }

  /**
   * Has what is under way to the endpoint's ports looked at anew, since the rules have changed: UDP, and what else
   * found a port taken but not translated.
   */
  async forget(endpoint: Endpoint): Promise<void> {
    const ports = endpoint.ports ?? [];
    const isLost = ({ protocol, host }: PublishedPort) =>
      host !== undefined && this.#reservations.hasDropped({ protocol, ...host });
    await this.#flows.forget(
      servedPorts(
        endpoint,
        ports.filter((port) => isUdp(port) || isLost(port)),
      ),
    );
  }

  /** Every firewall rule of those steps. */
  rules({ bridge, icc, gateways }: Publishing, endpoint: Endpoint): Rule[] {
    const comment = ruleComment(endpoint.network);
    return (endpoint.ports ?? []).flatMap(({ family, protocol, containerPort, host }) => {
      const containerAddress = addressOf(endpoint, family);
      // Only the relay leads from one family to the other.
      if (containerAddress === undefined)
        return host
          ? relayedRule({ family, protocol, hostAddress: host.address, hostPort: host.port, comment })
          : [];
      const port = { family, protocol, containerAddress, containerPort, bridge, comment };
      return host
        ? portRules({
            hostAddress: host.address,
            hostPort: host.port,
            icc,
            gateways,
            ...port,
          })
        : openPortRule(port);
    });
  }

  #chooseOne(
    publishing: Choosing,
    endpoint: Endpoint,
    binding: PortBinding,
    chosen: readonly PublishedPort[],
  ): PublishedPort[] {
    const { protocol, containerPort } = binding;
    const addresses = addressesOf(publishing, endpoint, binding);
    const isRouted = ({ family }: { family: Family }) => publishing.routed.includes(family);
    const [routed, translated] = [addresses.filter(isRouted), addresses.filter((one) => !isRouted(one))];
    const port =
      translated.length > 0 ? this.#takeSame(publishing, endpoint, binding, translated, chosen) : 0;
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
    publishing: Publishing,
    endpoint: Endpoint,
    binding: PortBinding,
    addresses: readonly { family: Family; address: string }[],
    chosen: readonly PublishedPort[],
  ): number {
    const { protocol, hostPort, hostPortEnd } = binding;
    const own = new Set(
      chosen.filter((port) => port.protocol === protocol).map(({ host }) => `${host?.address} ${host?.port}`),
    );
    const candidates =
      hostPort === 0
        ? [...previousPorts(endpoint, binding), ...new Array<number>(ATTEMPTS).fill(0)]
        : range(hostPort, hostPortEnd);
    let last: unknown;
    for (const [index, candidate] of candidates.entries()) {
      const isLast = index === candidates.length - 1;
      const taken: { address: string; port: number }[] = [];
      try {
        let port = candidate;
        for (const { family, address } of addresses) {
          if (own.has(`${address} ${port}`))
            throw new ConflictError(
              `cannot publish ${bracketed(address)}:${port}/${protocol}: this container asks for it twice`,
            );
          const admitted = relayedTo(publishing, endpoint, { protocol, family, host: { address } });
          const wanted = { protocol, address, port };
          const result = this.#reservations.take(holderOf(endpoint), wanted, admitted, isLast);
          port = result.port;
          if (result.taken) taken.push({ address, port });
        }
        return port;
      } catch (error) {
        for (const { address, port } of taken)
          this.#reservations.release(holderOf(endpoint), { protocol, address, port });
        last = error;
      }
    }
    throw candidates.length > 1 && hostPort !== 0
      ? new ConflictError(`no port of ${hostPort}-${hostPortEnd} is free: ${reason(last)}`, { cause: last })
      : last;
  }

  /** What keeps everybody else from an endpoint's host ports. */
  reservation(publishing: Publishing, endpoint: Endpoint): Step {
    const ports = endpoint.ports ?? [];
    return {
      what: `ports of endpoint ${endpoint.id}`,
      apply: () => {
        const failures: unknown[] = [];
        let changed = false;
        for (const port of ports) {
          const { protocol, host } = port;
          try {
            if (!host) continue;
            const admitted = relayedTo(publishing, endpoint, { ...port, host });
            if (this.#reservations.retake(holderOf(endpoint), { protocol, ...host }, admitted))
              changed = true;
          } catch (error) {
            failures.push(error);
          }
        }
        if (failures.length === 0) return Promise.resolve(changed);
        return Promise.reject(new ConflictError(failures.map(reason).join("; "), { cause: failures[0] }));
      },
      revert: () => {
        this.#release(endpoint, ports);
        return Promise.resolve();
      },
    };
  }

  /** The rules. When they change, UDP that is under way must be looked at anew. */
  #translation(endpoint: Endpoint, rules: readonly Rule[]): Step {
    const what = `rules of endpoint ${endpoint.id}`;
    const step = this.#firewall.rules(what, rules);
    return {
      what,
      apply: async () => {
        if (!(await step.apply())) return false;
        await this.forget(endpoint);
        return true;
      },
      revert: async () => {
        await step.revert();
        await this.#flows.forget(servedPorts(endpoint, (endpoint.ports ?? []).filter(isUdp)));
      },
    };
  }

  /** What the kernel cannot translate (see relay.ts). */
  #relayed(publishing: Publishing, endpoint: Endpoint, port: PublishedPort): Step[] {
    const { protocol, family, host, containerPort } = port;
    if (protocol === "sctp" || !host) return [];
    const clients = relayedTo(publishing, endpoint, { ...port, host });
    if (clients.length === 0) return [];
    const everywhere = addressOf(endpoint, family) === undefined && host.address === UNSPECIFIED[family];
    const key = `${protocol} ${host.address} ${host.port}`;
    const target = { address: targetOf(endpoint, port), port: containerPort };
    return [
      {
        what: `relay ${bracketed(host.address)}:${host.port}/${protocol}`,
        apply: () => {
          const socket = this.#reservations.socketOf({ protocol, ...host });
          const relayed = { protocol, family, host, everywhere, clients, target };
          return Promise.resolve(socket !== undefined && this.#relay.start(key, socket, relayed));
        },
        revert: () => {
          this.#relay.stop(key);
          return Promise.resolve();
        },
      },
    ];
  }

  #release(endpoint: Endpoint, ports: readonly PublishedPort[]): void {
    for (const { protocol, host } of ports)
      if (host) this.#reservations.release(holderOf(endpoint), { protocol, ...host });
  }
}

/** Where clients of an endpoint's ports send to. */
function servedPorts(endpoint: Endpoint, ports: readonly PublishedPort[]): ServedPort[] {
  return ports.map((port) => ({
    protocol: port.protocol,
    ...(port.host ?? { address: targetOf(endpoint, port), port: port.containerPort }),
  }));
}

function isUdp({ protocol }: PublishedPort): boolean {
  return protocol === "udp";
}

function holderOf({ id, network }: Endpoint): string {
  return `endpoint ${id.slice(0, 12)} of network ${network.slice(0, 12)}`;
}

/** What an ephemeral binding was given before, so that asking again changes nothing. */
function previousPorts({ ports = [] }: Endpoint, { protocol, containerPort }: PortBinding): number[] {
  const same = ports.filter((port) => port.protocol === protocol && port.containerPort === containerPort);
  return same.flatMap(({ host }) => host?.port ?? []);
}

function hasChoice({ hostPort, hostPortEnd }: PortBinding): boolean {
  return hostPort === 0 || hostPort !== hostPortEnd;
}

function range(first: number, last: number): number[] {
  return Array.from({ length: last - first + 1 }, (_, offset) => first + offset);
}

/** The host addresses of a binding: the one it names, else the network's default of each family. */
function addressesOf(
  { defaultAddress, routed, elsewhere }: Choosing,
  endpoint: Endpoint,
  { protocol, hostAddress, containerPort }: PortBinding,
): { family: Family; address: string }[] {
  const has = (family: Family) => addressOf(endpoint, family) !== undefined;
  // A relay leads from one family to the other.
  const relays = protocol !== "sctp" && routed.length === 0;
  const reaches = (family: Family) => has(family) || (relays && (family === 4 || loopbackHasIpv6()));
  const isLeft = (family: Family) => !has(family) && elsewhere.includes(family);
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

/** Whether the host's loopback has an IPv6 address. */
function loopbackHasIpv6(): boolean {
  return readSysctl("net/ipv6/conf/lo/disable_ipv6") === "0";
}
