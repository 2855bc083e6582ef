import { ConflictError, reason } from "../errors.ts";
import type { Firewall } from "../firewall/firewall.ts";
import { openPortRule, portRules, relayedRule } from "../firewall/port-rules.ts";
import type { Rule } from "../firewall/rule.ts";
import { type Family, UNSPECIFIED, bracketed } from "../ip.ts";
import type { ServedPort } from "../kernel/flow.ts";
import type { Host } from "../kernel/host.ts";
import { Reservations } from "../kernel/reservations.ts";
import { type Endpoint, type PortBinding, type PublishedPort, addressOf, targetOf } from "../model.ts";
import { ruleComment } from "../names.ts";
import { Relay } from "../relay/relay.ts";
import type { Step } from "../step.ts";
import { PortChoice, type Publishing, holderOf } from "./port-choice.ts";
import { relayedTo } from "./relayed.ts";

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
   * @param elsewhere families that another endpoint of the container publishes for, if this one does not have them
   * @throws {ConflictError} that names address, port and who has it
   */
  choose(
    publishing: Publishing,
    endpoint: Endpoint,
    bindings: readonly PortBinding[],
    elsewhere: readonly Family[],
  ): PublishedPort[] {
    return new PortChoice(this.#reservations, publishing, endpoint, elsewhere).take(bindings);
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
        for (const { protocol, host } of ports)
          if (host) this.#reservations.release(holderOf(endpoint), { protocol, ...host });
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
