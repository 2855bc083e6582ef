import { ConflictError, InvalidError, TakenError } from "../errors.ts";
import { type BridgeFacts, type GatewayMode, absentRules, bridgeRules } from "../firewall/bridge-rules.ts";
import type { Firewall } from "../firewall/firewall.ts";
import type { Rule } from "../firewall/rule.ts";
import { FAMILIES, type Family, UNSPECIFIED, isEverywhere } from "../ip.ts";
import type { Border } from "../kernel/conntrack.ts";
import type { Host } from "../kernel/host.ts";
import { isRemoved } from "../kernel/sandbox.ts";
import { readSysctl } from "../kernel/sysctl.ts";
import type { Knowledge } from "../knowledge.ts";
import {
  type Endpoint,
  type JoinResponse,
  type Network,
  type PortBinding,
  type PublishedPort,
  bareAddresses,
  pools,
} from "../model.ts";
import { bridgeMac, bridgeName, containerEnd, hostEnd, linkAlias, ruleComment } from "../names.ts";
import type { Step } from "../step.ts";
import { bridgeAddress } from "../steps/address.ts";
import { BRIDGE_PORTS, adoptedBridge, bridgeLink, vethPair } from "../steps/bridge.ts";
import { ownFlows } from "../steps/flows.ts";
import { sysctl } from "../steps/sysctl.ts";
import type { State } from "../store/state.ts";
import type { Backend, GatewayNeed } from "./backend.ts";
import { BridgeOptions, type PublishDefault, mustFit } from "./bridge-options.ts";
import { gatewaysOf, subnetsBeside } from "./gateways.ts";
import { leastMtu, mustCarryIpv6, ruleFamilies } from "./ipv6.ts";
import type { Publishing } from "./port-choice.ts";
import type { Publisher } from "./publisher.ts";
import { mustBeAssignable, mustLeaveRoutes } from "./routes.ts";
import { Siblings } from "./siblings.ts";

/** What the host was like when the network was created. */
interface Found {
  /** The bridge was there before: it is used and never deleted. */
  readonly adopted: boolean;
  /** Gateways that were on it already: they are not taken off it either. */
  readonly addresses: readonly string[];
  readonly mtu: number;
  /** Bytes a packet may have on the link to the outside before it is cut; 0 where there was no such link. */
  readonly uplinkPackets: number;
  /** An adopted bridge's route_localnet. */
  readonly routeLocalnet?: string | undefined;
}

/** RFC 894. */
const ETHERNET_MTU = 1500;
/** Bytes of a packet that nearly every link takes (GSO_LEGACY_MAX_SIZE, linux/netdevice.h). */
const USUAL_PACKETS = 65_536;

type BridgeNet = Network<BridgeOptions, Found>;

/**
 * Containers on a Linux bridge:
 *
 *   sandbox                       host
 *   eth0 (tsc…) ───── veth ───── tsh… ── bridge ts-… (gateway's address) ── NAT ── outside
 */
export class BridgeBackend implements Backend<BridgeOptions, Found> {
  readonly options = BridgeOptions;
  readonly capacity = BRIDGE_PORTS;
  readonly concurrentEndpoints = true;
  readonly #host: Host;
  readonly #firewall: Firewall;
  readonly #publisher: Publisher;
  readonly #publishDefault: PublishDefault;
  readonly #siblings: Siblings;
  readonly #engine: Pick<Knowledge, "knowsBridge">;

  /**
   * @param publishDefault for networks that do not say where their ports are published
   * @param state which other networks a container is on
   * @param engine which bridges are its own
   */
  constructor(
    host: Host,
    firewall: Firewall,
    publisher: Publisher,
    publishDefault: PublishDefault,
    state: State,
    engine: Pick<Knowledge, "knowsBridge">,
  ) {
    this.#host = host;
    this.#firewall = firewall;
    this.#publisher = publisher;
    this.#publishDefault = publishDefault;
    this.#siblings = new Siblings(firewall, state);
    this.#engine = engine;
  }

  async survey(network: Network<BridgeOptions>, others: readonly Network[]): Promise<Found> {
    mustFit(network);
    mustBeAssignable(network);
    // The engine may have been started after tsnet.
    await this.#firewall.mustNotMix();
    const name = bridgeOf(network);
    const shared = others.find((other) => isOn(other, name));
    if (shared)
      throw new TakenError(shared.id, `bridge ${name} belongs to network ${shared.id}; choose another name`);
    const link = await this.#host.link(name);
    if (link && link.name !== name)
      throw new InvalidError(
        `option com.docker.network.bridge.name is "${name}", but must be "${link.name}": iptables knows no altnames`,
      );
    // A network created a second time finds the bridge it made the first time.
    const adopted = link !== undefined && link.alias !== linkAlias("network", network.id);
    if (adopted && link.kind !== "bridge")
      throw new ConflictError(`link ${name} exists and is a ${link.kind || "device"}, not a bridge`);
    // Past what keeps networks apart its containers would be on both.
    if (adopted && (await this.#engine.knowsBridge(name).catch(() => false)))
      throw new ConflictError(`bridge ${name} belongs to a network of the engine's; choose another name`);
    const ownerOf = (bridge: string) => others.find((other) => isOn(other, bridge))?.id;
    await mustLeaveRoutes(this.#host, network, link?.index, ownerOf);
    const mtu = network.options["com.docker.network.driver.mtu"];
    if (adopted && mtu !== undefined && mtu > link.mtu)
      throw new InvalidError(
        `option com.docker.network.driver.mtu is ${mtu}, but bridge ${name} has an MTU of ${link.mtu}; raise that first (ip link set ${name} mtu ${mtu})`,
      );
    mustCarryIpv6(network, {
      "option com.docker.network.driver.mtu is": mtu,
      [`bridge ${name} has an MTU of`]: adopted ? link.mtu : undefined,
    });
    const uplink = await this.#host.uplink();
    const there = adopted ? await this.#host.addresses.on(link) : [];
    return {
      adopted,
      addresses: there.map(({ cidr }) => cidr),
      mtu: mtu ?? (adopted ? link.mtu : Math.max(uplink?.mtu ?? ETHERNET_MTU, leastMtu(network))),
      uplinkPackets: uplink?.gsoMaxSize ?? 0,
      ...(adopted ? { routeLocalnet: readSysctl(routeLocalnet(name)) } : {}),
    };
  }

  gatewayNeed(options: BridgeOptions): GatewayNeed {
    return {
      skipIPv4: options["com.docker.network.bridge.gateway_mode_ipv4"] === "isolated",
      skipIPv6: options["com.docker.network.bridge.gateway_mode_ipv6"] === "isolated",
    };
  }

  network(network: BridgeNet): Step[] {
    const name = bridgeOf(network);
    const { adopted, mtu, addresses } = network.found;
    const gateways = bridgeAddresses(network).filter((cidr) => !addresses.includes(cidr));
    const families = FAMILIES.filter((family) => pools(network, family).length > 0);
    return [
      ...(network.internal ? [] : families.map((family) => this.#firewall.forwarding.step(family))),
      ...this.#firewall.admission(name, adopted),
      adopted
        ? adoptedBridge(this.#host, name)
        : bridgeLink(this.#host, {
            name,
            alias: linkAlias("network", network.id),
            mac: bridgeMac(network.id),
            mtu,
          }),
      ...(adopted ? [] : bridgeSysctls(name, bridgeHasIpv6(network), network.internal ? [] : families)),
      ...gateways.map((cidr) => bridgeAddress(this.#host, name, cidr, adopted)),
      this.#firewall.rules(`rules of network ${network.id}`, rulesOf(network)),
      // A port published on 127.0.0.1 has its answers come in here with that destination; the rules keep out all else.
      ...(network.internal || network.ipv4.length === 0
        ? []
        : [sysctl(routeLocalnet(name), "1", network.found.routeLocalnet)]),
    ];
  }

  endpoint(network: BridgeNet, endpoint: Endpoint): Step[] {
    return [
      ownFlows(this.#host, bareAddresses(endpoint), endpoint.left !== undefined),
      vethPair(this.#host, {
        endpoint: endpoint.id,
        bridge: bridgeOf(network),
        adopted: network.found.adopted,
        mac: endpoint.mac,
        mtu: network.found.mtu,
        ...containerPackets(network),
        isolated: !network.options["com.docker.network.bridge.enable_icc"],
        joined: endpoint.sandbox !== undefined,
      }),
    ];
  }

  join(network: BridgeNet, endpoint: Endpoint): JoinResponse {
    const link = {
      name: containerEnd(endpoint.id),
      prefix: network.options["com.docker.network.container_iface_prefix"],
    };
    // An internal network has no way out, and the engine asks for none (libnetwork, needDefaultGW).
    if (network.internal) return { link, ...subnetsBeside(network, endpoint) };
    return { link, ...gatewaysOf(network, endpoint) };
  }

  /** A bridge that is somebody else's may be changed, deleted and made again by them. */
  parents(network: BridgeNet): string[] {
    return network.found.adopted ? [bridgeOf(network)] : [];
  }

  onLeave(endpoint: Endpoint): void {
    this.#host.flows.forgetSoon(bareAddresses(endpoint));
  }

  choosePorts(
    network: BridgeNet,
    endpoint: Endpoint,
    bindings: readonly PortBinding[],
    elsewhere: readonly Family[],
  ): PublishedPort[] {
    return this.#publisher.choose(this.#publishing(network), endpoint, bindings, elsewhere);
  }

  reserve(network: BridgeNet, endpoint: Endpoint): Step {
    return this.#publisher.reservation(this.#publishing(network), endpoint);
  }

  publish(network: BridgeNet, endpoint: Endpoint): Step[] {
    const steps = this.#publisher.steps(this.#publishing(network), endpoint);
    if (steps.length === 0) return [];
    return [...this.#siblings.steps(bridgeOf(network), endpoint), ...steps];
  }

  async onSiblings(network: BridgeNet, endpoints: readonly Endpoint[], sandbox: string): Promise<void> {
    const { missing, extra } = await this.#firewall.repair(
      ruleComment(network.id),
      this.rules(network, endpoints),
    );
    if (missing.length + extra.length > 0)
      await this.#forgetPorts(endpoints.filter((endpoint) => endpoint.sandbox === sandbox));
  }

  async onRules(network: BridgeNet, endpoints: readonly Endpoint[]): Promise<void> {
    this.#host.flows.forgetStrays(bordersOf(network));
    await this.#forgetPorts(endpoints);
  }

  async #forgetPorts(endpoints: readonly Endpoint[]): Promise<void> {
    await Promise.all(endpoints.map((endpoint) => this.#publisher.forget(endpoint)));
  }

  async isGone({ id, sandbox }: Endpoint): Promise<boolean> {
    if (sandbox === undefined) return false;
    // Before engine 28 the sandbox is made after Join, and the link waits here for it.
    if (await this.#host.links.get(containerEnd(id))) return false;
    // A veth pair goes with either of its ends' namespaces, but only some time after.
    return isRemoved(sandbox) || (await this.#host.links.get(hostEnd(id))) === undefined;
  }

  rules(network: BridgeNet, endpoints: readonly Endpoint[]): Rule[] {
    return [
      ...rulesOf(network),
      ...endpoints.flatMap((endpoint) => [
        ...this.#publisher.rules(this.#publishing(network), endpoint),
        ...this.#siblings.rules(bridgeOf(network), endpoint),
      ]),
    ];
  }

  #publishing(network: BridgeNet): Publishing {
    const { publish, "com.docker.network.bridge.host_binding_ipv4": binding } = network.options;
    // As the engine has it: an address for IPv4 means that nothing is published for IPv6, unless that is said as well.
    const others = publish ?? (binding === UNSPECIFIED[4] ? { 6: UNSPECIFIED[6] } : {});
    return {
      bridge: bridgeOf(network),
      defaultAddress: binding === undefined ? (publish ?? this.#publishDefault) : { ...others, 4: binding },
      routed: FAMILIES.filter((family) => modeOf(network, family) === "routed"),
      icc: network.options["com.docker.network.bridge.enable_icc"],
      gateways: bridgeAddresses(network),
    };
  }
}

/**
 * A container makes packets as large as its own link takes. What is larger than the uplink takes is cut into pieces of
 * the MTU's size on its way out, in software, which halves the speed; between containers larger is up to three times
 * as fast. So they are large where nothing leaves, or where the user says so.
 */
function containerPackets({ internal, options, found }: BridgeNet): { containerPackets?: number } {
  if (internal || options.big_tcp) return {};
  // A host without a default route still reaches others, and may have one later.
  return { containerPackets: found.uplinkPackets || USUAL_PACKETS };
}

function bridgeOf(network: { readonly id: string; readonly options: BridgeOptions }): string {
  return network.options["com.docker.network.bridge.name"] ?? bridgeName(network.id);
}

function isOn(network: Network, bridge: string): boolean {
  return network.backend === "bridge" && bridgeOf(network as BridgeNet) === bridge;
}

function modeOf({ options }: BridgeNet, family: Family): GatewayMode {
  return options[`com.docker.network.bridge.gateway_mode_ipv${family}`];
}

/** The gateways' addresses, which the bridge carries unless an option says otherwise. */
function bridgeAddresses(network: BridgeNet): string[] {
  return FAMILIES.flatMap((family) => {
    const inhibited = family === 4 && network.options["com.docker.network.bridge.inhibit_ipv4"];
    if (inhibited || modeOf(network, family) === "isolated") return [];
    return pools(network, family).flatMap(({ gateway }) => gateway ?? []);
  });
}

function routeLocalnet(bridge: string): string {
  return `net/ipv4/conf/${bridge}/route_localnet`;
}

/** Whether the host itself has IPv6 on the bridge: of an isolated network not even a link-local address. */
function bridgeHasIpv6(network: BridgeNet): boolean {
  return network.ipv6.length > 0 && modeOf(network, 6) !== "isolated";
}

function bridgeSysctls(name: string, ipv6: boolean, forwards: readonly Family[]): Step[] {
  return [
    // The bridge is a router here; advertisements from a container must not configure the host.
    sysctl(`net/ipv6/conf/${name}/accept_ra`, "0"),
    // Nobody else has an address derived from this network's id, and until the kernel is sure of that (2 s after the
    // first container starts) it forwards nothing to a neighbour that it must ask for.
    sysctl(`net/ipv6/conf/${name}/accept_dad`, "0"),
    // Without IPv6 on the network there are no rules for it, so there must be no way for it either.
    sysctl(`net/ipv6/conf/${name}/disable_ipv6`, ipv6 ? "0" : "1"),
    // A host that forwards may say of new links that they do not (conf/default/forwarding).
    ...forwards.map((family) => sysctl(`net/ipv${family}/conf/${name}/forwarding`, "1")),
  ];
}

/** What conntrack can tell of each subnet: what the outside reaches without translation has no such border. */
function bordersOf(network: BridgeNet): Border[] {
  const { internal, options } = network;
  return FAMILIES.flatMap((family) => {
    const translates =
      options["com.docker.network.bridge.enable_ip_masquerade"] && modeOf(network, family) === "nat";
    const subnets = internal || translates ? pools(network, family).map(({ subnet }) => subnet) : [];
    return subnets.filter((subnet) => !isEverywhere(subnet)).map((subnet) => ({ subnet, closed: internal }));
  });
}

function rulesOf(network: BridgeNet): Rule[] {
  return ruleFamilies(network.found.adopted).flatMap((family) => familyRules(network, family));
}

function familyRules(network: BridgeNet, family: Family): Rule[] {
  const { options, found } = network;
  const owner = { family, bridge: bridgeOf(network), comment: ruleComment(network.id) };
  const subnets = pools(network, family).map(({ subnet }) => subnet);
  if (subnets.length === 0) return absentRules(owner, found.adopted);
  const hostAddress = options[`com.docker.network.host_ipv${family}`];
  const facts: BridgeFacts = {
    subnets: subnets.filter((subnet) => !isEverywhere(subnet)),
    internal: network.internal,
    icc: options["com.docker.network.bridge.enable_icc"],
    masquerade: options["com.docker.network.bridge.enable_ip_masquerade"],
    ...(hostAddress ? { hostAddress } : {}),
    mode: modeOf(network, family),
    ...owner,
  };
  return bridgeRules(facts);
}
