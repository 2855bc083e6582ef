import { ConflictError, InvalidError, TakenError } from "../errors.ts";
import type { Firewall } from "../firewall/firewall.ts";
import type { Rule } from "../firewall/rule.ts";
import type { Family } from "../ip.ts";
import type { Host } from "../kernel/host.ts";
import { KeyedLock } from "../lock.ts";
import type { Endpoint, JoinResponse, Network } from "../model.ts";
import { bridgeMac, containerEnd, hostEnd, linkAlias } from "../names.ts";
import { type Step, untilLast } from "../step.ts";
import type { Joined } from "../steps/macvlan-in-sandbox.ts";
import { type MacvlanSpec, macvlanLink } from "../steps/macvlan.ts";
import { privateParent, vlanLink } from "../steps/parent.ts";
import type { State } from "../store/state.ts";
import type { Backend, GatewayNeed } from "./backend.ts";
import { gatewaysOf } from "./gateways.ts";
import { HostAccess, accessRules } from "./host-access.ts";
import { mustCarryIpv6 } from "./ipv6.ts";
import { MacvlanOptions } from "./macvlan-options.ts";
import { type Parent, findParent, whoTakesFrames } from "./parents.ts";

/** What was decided when the network was created. */
interface Found {
  readonly parent: Parent;
}

type MacvlanNet = Network<MacvlanOptions, Found>;
type KnownState = Pick<State, "networks" | "endpoints" | "inSandbox" | "endpointRecord">;

/** MTU of a parent that leads nowhere, in bytes. */
const PRIVATE_MTU = 1500;

/**
 * Containers on the wire of a link of the host's, each with a MAC of its own:
 *
 *   sandbox                         host
 *   eth0 (tsc…) ──┐
 *   eth0 (tsc…) ──┼─ macvlan ─── parent (eth0, eth0.50, tsp…) ──── LAN
 *                 └─ tsm… (host_access: a route for each container leads here)
 *
 * The parent itself and its macvlans do not reach each other: the kernel sends what comes from one to the wire.
 */
export class MacvlanBackend implements Backend<MacvlanOptions, Found> {
  readonly options = MacvlanOptions;
  readonly #host: Host;
  readonly #firewall: Pick<Firewall, "rules">;
  readonly #state: KnownState;
  readonly #access: HostAccess;
  /** By parent: whether a network is its last is decided and acted upon in one. */
  readonly #parents = new KeyedLock();
  /** Networks that no longer need their parent: their records go only after it. */
  readonly #leaving = new Set<string>();

  /** @param state whom a parent or a link is shared with */
  constructor(host: Host, firewall: Pick<Firewall, "rules">, state: KnownState) {
    this.#host = host;
    this.#firewall = firewall;
    this.#state = state;
    this.#access = new HostAccess(host, state);
  }

  async survey(network: Network<MacvlanOptions>, others: readonly Network[]): Promise<Found> {
    const { macvlan_mode: mode, host_access: access, parent: asked } = network.options;
    if (access && mode !== "bridge")
      throw new InvalidError(
        `option host_access=on needs macvlan_mode=bridge: in mode ${mode} containers do not reach other links of the parent`,
      );
    const { parent, link } = await findParent(this.#host, network.id, asked);
    mustBeShareable(parent.name, mode, others);
    const mtu = network.options["com.docker.network.driver.mtu"];
    if (mtu && link && mtu > link.mtu)
      throw new InvalidError(
        `option com.docker.network.driver.mtu is "${mtu}", but must be no more than the ${link.mtu} of parent ${link.name}`,
      );
    mustCarryIpv6(network, {
      "option com.docker.network.driver.mtu is": mtu,
      [`parent ${parent.name} has an MTU of`]: link?.mtu,
    });
    const trouble = access ? await this.#access.trouble(network, parent.name) : undefined;
    if (trouble) throw new ConflictError(trouble);
    return { parent };
  }

  /** The address that a LAN's router is likely to have is nobody's, and the way out, as with the engine's driver. */
  gatewayNeed({ parent }: MacvlanOptions): GatewayNeed {
    const leadsNowhere = parent === undefined;
    return { skipIPv4: leadsNowhere, skipIPv6: leadsNowhere };
  }

  network(network: MacvlanNet): Step[] {
    return [...this.#parentSteps(network), ...this.#ruleSteps(network)];
  }

  endpoint(network: MacvlanNet, endpoint: Endpoint): Step[] {
    const { options, found } = network;
    const { sandbox, mac, left } = endpoint;
    const mtu = options["com.docker.network.driver.mtu"];
    const link: MacvlanSpec = {
      name: containerEnd(endpoint.id),
      standIn: hostEnd(endpoint.id),
      alias: linkAlias("endpoint", endpoint.id),
      parent: found.parent.name,
      mode: options.macvlan_mode,
      mac,
      ...(mtu ? { mtu } : {}),
      ...(left === undefined ? {} : { left }),
      ...(sandbox ? { joined: this.#inside(network, endpoint, sandbox) } : {}),
    };
    return [
      macvlanLink(this.#host, link),
      ...(options.host_access ? this.#access.steps(network, found.parent.name, endpoint) : []),
    ];
  }

  join(network: MacvlanNet, endpoint: Endpoint): JoinResponse {
    const link = {
      name: containerEnd(endpoint.id),
      prefix: network.options["com.docker.network.container_iface_prefix"],
    };
    if (network.internal) return { link };
    // Nothing is behind a parent that leads nowhere.
    if (isPrivate(network)) return { link, withoutGateway: true };
    return { link, ...gatewaysOf(network, endpoint) };
  }

  rules(network: MacvlanNet): Rule[] {
    return network.options.host_access ? accessRules(network) : [];
  }

  parents({ found }: MacvlanNet): string[] {
    const { name, made } = found.parent;
    return made?.kind === "vlan" ? [name, made.base] : [name];
  }

  async trouble(network: MacvlanNet): Promise<string | undefined> {
    const { name } = network.found.parent;
    const link = await this.#host.links.get(name);
    if (!link) return `parent ${name} is gone`;
    if (!link.up) return `parent ${name} is down`;
    if (!link.carrier) return `parent ${name} has no carrier`;
    const above = await whoTakesFrames(this.#host, link);
    if (above) return `parent ${name} is a port of ${above}, which takes its frames`;
    return network.options.host_access ? await this.#access.trouble(network, name) : undefined;
  }

  async mac({ options, found }: MacvlanNet): Promise<string | undefined> {
    if (options.macvlan_mode !== "passthru") return undefined;
    return (await this.#host.links.get(found.parent.name))?.mac;
  }

  #parentSteps({ id, options, found }: MacvlanNet): Step[] {
    const { name, made } = found.parent;
    if (!made) return [];
    if (made.kind !== "vlan") {
      const mtu = options["com.docker.network.driver.mtu"] ?? PRIVATE_MTU;
      const alias = linkAlias("network", id);
      return [privateParent(this.#host, { name, alias, kind: made.kind, mac: bridgeMac(id), mtu })];
    }
    const { base, id: vlan } = made;
    const step = vlanLink(this.#host, { name, alias: linkAlias("parent", name), base, id: vlan });
    return [
      {
        what: step.what,
        apply: () =>
          this.#parents.run(name, () => {
            this.#leaving.delete(id);
            return step.apply();
          }),
        revert: () =>
          this.#parents.run(name, () => {
            this.#forgetGone();
            this.#leaving.add(id);
            return untilLast(step, () => this.#remainingOn(name)).revert();
          }),
      },
    ];
  }

  /** Networks on a parent that need it. */
  #remainingOn(parent: string): readonly Network[] {
    return this.#state
      .networks()
      .filter((network) => isOn(network, parent) && !this.#leaving.has(network.id));
  }

  #forgetGone(): void {
    const there = new Set(this.#state.networks().map(({ id }) => id));
    for (const id of this.#leaving) if (!there.has(id)) this.#leaving.delete(id);
  }

  #ruleSteps(network: MacvlanNet): Step[] {
    const rules = this.rules(network);
    return rules.length === 0 ? [] : [this.#firewall.rules(`rules of network ${network.id}`, rules)];
  }

  #inside(network: MacvlanNet, endpoint: Endpoint, sandbox: string): Joined {
    const { link, gateway, gatewayIPv6 } = this.join(network, endpoint);
    const { ifname, leads = [], lower = 0, sysctls } = endpoint;
    const siblings = this.#state.inSandbox(sandbox).filter(({ id }) => id !== endpoint.id);
    const isOthers = (family: Family) =>
      !leads.includes(family) && siblings.some((other) => other.leads?.includes(family));
    return {
      sandbox,
      prefix: link.prefix,
      ...(ifname === undefined ? {} : { seen: { ifname, leads, lower } }),
      remember: async (seen) => {
        await this.#state.endpointRecord({ ...endpoint, ...seen }).apply();
      },
      addresses: addressesOf(endpoint),
      ...(sysctls === undefined ? {} : { sysctls }),
      gateways: [isOthers(4) ? undefined : gateway, isOthers(6) ? undefined : gatewayIPv6].filter(
        (one) => one !== undefined,
      ),
    };
  }
}

/** A passthru link takes its parent for itself. */
function mustBeShareable(
  parent: string,
  mode: MacvlanOptions["macvlan_mode"],
  others: readonly Network[],
): void {
  const other = others.find(
    (candidate) =>
      isOn(candidate, parent) &&
      (mode === "passthru" || (candidate as MacvlanNet).options.macvlan_mode === "passthru"),
  );
  if (other)
    throw new TakenError(
      other.id,
      `parent ${parent} belongs to network ${other.id}; one of the two is in mode passthru, which shares a parent with nobody`,
    );
}

/** Of one that is just being made, only what was asked for is known. */
function isOn(network: Network, parent: string): boolean {
  if (network.backend !== "macvlan") return false;
  const { found, options } = network as Network<MacvlanOptions, Found | undefined>;
  return (found?.parent.name ?? options.parent) === parent;
}

function isPrivate({ found }: MacvlanNet): boolean {
  return found.parent.made !== undefined && found.parent.made.kind !== "vlan";
}

function addressesOf({ ipv4, ipv6 }: Endpoint): string[] {
  return [ipv4, ipv6].filter((cidr) => cidr !== undefined);
}
