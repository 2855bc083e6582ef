import { isDeepStrictEqual } from "node:util";
import * as z from "zod";
import { InvalidError, reason } from "./errors.ts";
import { type Family, autoconfigured, bare, isIp, parseCidr } from "./ip.ts";
import { isOfOneLink } from "./mac.ts";
import { macOf } from "./names.ts";

/** An address with its prefix length. */
export const Cidr = z.string().superRefine((text, context) => {
  try {
    parseCidr(text);
  } catch (error) {
    context.addIssue({ code: "custom", message: reason(error) });
  }
});

/** A port that somebody can be reached at. */
export const Port = z.number().int().min(1).max(65_535);

/** One subnet of a network, as the engine's IPAM driver granted it. */
export const Pool = z.object({
  /** Network address with prefix length. */
  subnet: Cidr,
  /** Gateway with prefix length. Absent where none was reserved. */
  gateway: Cidr.optional(),
  /** `--aux-address`: name to address with prefix length. */
  aux: z.record(z.string(), Cidr).default({}),
});
export type Pool = z.infer<typeof Pool>;

/** Names of the `--aux-address` that is the host's own on a network; one name can be given only once. */
export const HOST_AUX = { 4: "host", 6: "host6" } as const;

/** What a published port can be one of. */
export const Protocol = z.enum(["tcp", "udp", "sctp"]);
export type Protocol = z.infer<typeof Protocol>;

/** Their numbers in a packet (IANA). */
export const PROTOCOL_NUMBERS = { tcp: 6, udp: 17, sctp: 132 } as const satisfies Record<Protocol, number>;

/** A published port as the engine asks for it (PortBinding of libnetwork). */
export const PortBinding = z.object({
  protocol: Protocol,
  containerPort: z.number().int(),
  /** Bare address; empty for the network's default. */
  hostAddress: z.string(),
  /** First and last host port to choose from; 0 and 0 for any. */
  hostPort: z.number().int(),
  hostPortEnd: z.number().int(),
});
export type PortBinding = z.infer<typeof PortBinding>;

/** A published port as it was settled: a binding of one address family, with its host port chosen. */
export const PublishedPort = z.object({
  protocol: Protocol,
  containerPort: Port,
  /** Bare; `0.0.0.0` or `::` for every address of the host. Absent where nothing is translated (routed). */
  host: z.object({ address: z.string().refine(isIp, "must be an IP address"), port: Port }).optional(),
  family: z.union([z.literal(4), z.literal(6)]),
});
export type PublishedPort = z.infer<typeof PublishedPort>;

/** A network as it was asked for and settled. The record of it is what the kernel is made to match. */
export const Network = z.object({
  /** The engine's id: 64 hex digits, or 25 letters and digits in a swarm. */
  id: z.string(),
  /** Name of the backend that makes it. */
  backend: z.string(),
  /** The request's options as the backend parsed them. */
  options: z.record(z.string(), z.unknown()),
  internal: z.boolean(),
  ipv4: z.array(Pool),
  ipv6: z.array(Pool),
  /** What the backend found out on the host when the network was created, and must remember to delete it. */
  found: z.unknown(),
  /** Milliseconds since 1970. */
  createdAt: z.number(),
  /** The engine that was seen to know it last (Inventory, docker/engine.ts). */
  engine: z.string().optional(),
});
/** With the backend's own types for what only it understands. */
export type Network<O = unknown, F = unknown> = Omit<z.infer<typeof Network>, "options" | "found"> & {
  readonly options: O;
  readonly found: F;
};

/** A container's attachment to a network. */
export const Endpoint = z.object({
  id: z.string(),
  network: z.string(),
  /** With prefix length; absent where the container has no address of that family. */
  ipv4: Cidr.optional(),
  ipv6: Cidr.optional(),
  /** Colon-separated, lower case. */
  mac: z.string().regex(/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/, "must be six hex octets with colons"),
  /**
   * Settings that the engine gives the link in the sandbox: `net.ipv6.conf.IFNAME.accept_ra=0`, separated by commas.
   */
  sysctls: z.string().optional(),
  /** Path of the sandbox's network namespace, between Join and Leave. */
  sandbox: z.string().optional(),
  /** What the engine calls its link in the sandbox, once that was seen: lost there, it must come back by that name. */
  ifname: z.string().optional(),
  /** Families of which its container's default route was seen to lead through that link: it must do so again. */
  leads: z.array(z.union([z.literal(4), z.literal(6)])).optional(),
  /** Index of the link of the host's that it was seen to sit on. */
  lower: z.number().optional(),
  /** What is published, while the endpoint is its container's gateway. */
  ports: z.array(PublishedPort).optional(),
  /**
   * Path of the sandbox that the container has left, empty if it is not known: until the endpoint is deleted the engine
   * gives back the link that it had moved there, unless it is killed.
   */
  left: z.string().optional(),
  createdAt: z.number(),
});
export type Endpoint = z.infer<typeof Endpoint>;

/** What CreateNetwork asks for. */
export interface NetworkRequest {
  readonly id: string;
  /** The user's `-o` options as given. */
  readonly options: Readonly<Record<string, string>>;
  readonly internal: boolean;
  readonly ipv4: readonly Pool[];
  readonly ipv6: readonly Pool[];
}

/** What CreateEndpoint asks for. */
export interface EndpointRequest {
  readonly network: string;
  readonly id: string;
  readonly ipv4?: string;
  readonly ipv6?: string;
  readonly mac?: string;
  /** As in {@link Endpoint}. */
  readonly sysctls?: string;
}

/**
 * The endpoint that is asked for.
 *
 * @param fixed the MAC that every container of the network has, if they have one
 * @throws {InvalidError} if it cannot have the MAC that is asked for
 */
export function endpointOf(request: EndpointRequest, fixed?: string, createdAt = Date.now()): Endpoint {
  const { network, id, ipv4, ipv6, mac, sysctls } = request;
  if (mac && !isOfOneLink(mac))
    throw new InvalidError(
      `MAC address ${mac} is a group's or nobody's; choose one such as 02:42:0a:00:00:02`,
    );
  if (fixed && mac && mac !== fixed)
    throw new InvalidError(
      `MAC address ${mac}: containers of network ${network} have the ${fixed} of its parent`,
    );
  return {
    id,
    network,
    ...(ipv4 ? { ipv4 } : {}),
    ...(ipv6 ? { ipv6 } : {}),
    mac: mac ?? fixed ?? macOf(ipv4 && bare(ipv4), ipv6 ?? id),
    ...(sysctls ? { sysctls } : {}),
    createdAt,
  };
}

/** The record of an endpoint whose container has joined. */
export function joined(endpoint: Endpoint, sandbox: string): Endpoint {
  const { left: _, ...rest } = { ...endpoint, sandbox };
  return rest;
}

/** The record of an endpoint whose container is leaving: nothing is known any more of its link in the sandbox. */
export function left(endpoint: Endpoint): Endpoint {
  const { sandbox = endpoint.left ?? "", ifname: _, leads: __, lower: ___, ...rest } = endpoint;
  return { left: sandbox, ...rest };
}

/** An endpoint's addresses without their prefix lengths. */
export function bareAddresses({ ipv4, ipv6 }: Pick<Endpoint, "ipv4" | "ipv6">): string[] {
  return [ipv4, ipv6].filter((cidr) => cidr !== undefined).map(bare);
}

/**
 * Bare addresses that an endpoint may speak from on a LAN: its own, and what a router there may have it give itself.
 */
export function lanAddresses(endpoint: Pick<Endpoint, "ipv4" | "ipv6" | "mac">): string[] {
  const { ipv6, mac } = endpoint;
  const auto = ipv6 && autoconfigured(ipv6, mac);
  return [...new Set([...bareAddresses(endpoint), ...(auto ? [auto] : [])])];
}

/** An endpoint's bare address of a family; undefined if it has none. */
export function addressOf(
  { ipv4, ipv6 }: Pick<Endpoint, "ipv4" | "ipv6">,
  family: Family,
): string | undefined {
  const cidr = family === 4 ? ipv4 : ipv6;
  return cidr === undefined ? undefined : bare(cidr);
}

/**
 * The bare address that a published port leads to: that of its family, or the other where the container has no such.
 */
export function targetOf(endpoint: Pick<Endpoint, "ipv4" | "ipv6">, { family }: PublishedPort): string {
  return addressOf(endpoint, family) ?? addressOf(endpoint, family === 4 ? 6 : 4) ?? "";
}

/** Whether two published ports take the same one of the host's, or both take none. */
export function isSameHostPort(a: PublishedPort, b: PublishedPort): boolean {
  return a.protocol === b.protocol && isDeepStrictEqual(a.host, b.host);
}

/** The pools of one family. */
export function pools(network: Network, family: Family): readonly Pool[] {
  return family === 4 ? network.ipv4 : network.ipv6;
}

/** What a backend tells the engine to do with the sandbox (JoinResponse of libnetwork). */
export interface JoinResponse {
  /** The link to move into the sandbox, and how it is called there: prefix and a number. */
  readonly link: { readonly name: string; readonly prefix: string };
  /** Bare addresses. */
  readonly gateway?: string;
  readonly gatewayIPv6?: string;
  /** Subnets that are reached without a gateway, beside the address's own. */
  readonly onLink?: readonly string[];
  /** True: the engine adds no docker_gwbridge although there is no gateway. */
  readonly withoutGateway?: boolean;
}
