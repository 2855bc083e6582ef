import * as z from "zod";
import { isIp, parseIp } from "../ip.ts";
import { Cidr, Port } from "../model.ts";

/**
 * Requests of libnetwork's remote driver protocol, as engines 20.10 to 28.5 send them, and nothing else.
 * Keys that are not listed are ignored: newer engines add some.
 */

/** 64 hex digits, or 25 letters and digits for a swarm's network. What is called after it has 12 of them. */
const Id = z.string().regex(/^[a-z0-9]{12,64}$/, "must be 12 to 64 lower-case letters and digits");

/** An absent address is sent as an empty string. */
const optional = <T extends z.ZodType>(schema: T) =>
  z.union([z.literal("").transform(() => undefined), schema]);

const Mac = z.string().regex(/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/i, "must be six hex octets with colons");

const IpamData = z
  .object({
    Pool: Cidr,
    Gateway: Cidr.optional(),
    AuxAddresses: z.record(z.string(), Cidr).nullish(),
  })
  .transform(({ Pool, Gateway, AuxAddresses }) => ({
    subnet: Pool,
    ...(Gateway ? { gateway: Gateway } : {}),
    aux: AuxAddresses ?? {},
  }));

const Texts = z.record(z.string(), z.string());
/** The user's `-o` options, every one: zod leaves `__proto__` out of a record, and then nobody would refuse it. */
const UserOptions = z.unknown().transform((given, context) => {
  for (const issue of Texts.safeParse(given).error?.issues ?? [])
    context.addIssue({ ...issue, code: "custom" });
  return given as z.infer<typeof Texts>;
});

const NetworkOptions = z.object({
  "com.docker.network.generic": UserOptions.nullish(),
  "com.docker.network.internal": z.boolean().optional(),
});

/** IP protocol numbers (IANA) that can be published. */
const PROTOCOLS = { 6: "tcp", 17: "udp", 132: "sctp" } as const;
/** 0: any. */
const HostPort = z.number().int().min(0).max(65_535);

const PortMapping = z
  .object({
    Proto: z.union([z.literal(6), z.literal(17), z.literal(132)], {
      error: "must be 6 (tcp), 17 (udp) or 132 (sctp)",
    }),
    Port,
    HostIP: z.string().refine((text) => text === "" || isIp(text), "must be an IP address"),
    HostPort,
    HostPortEnd: HostPort,
  })
  .transform(({ Proto, Port, HostIP, HostPort, HostPortEnd }) => ({
    protocol: PROTOCOLS[Proto],
    containerPort: Port,
    hostAddress: HostIP && parseIp(HostIP).address,
    hostPort: HostPort,
    hostPortEnd: Math.max(HostPort, HostPortEnd),
  }));

const SandboxOptions = z.object({
  "com.docker.network.portmap": z.array(PortMapping).nullish(),
  /** Another endpoint of the container publishes for IPv6 (engine 28). */
  "com.docker.network.driver.private.no_proxy_6to4": z.boolean().nullish(),
});

export const NetworkOnly = z.object({ NetworkID: Id });
export const EndpointOnly = z.object({ NetworkID: Id, EndpointID: Id });
export const GwAllocCheck = z.object({ Options: NetworkOptions.nullish() });
export const CreateNetwork = z.object({
  NetworkID: Id,
  Options: NetworkOptions.nullish(),
  IPv4Data: z.array(IpamData).nullish(),
  IPv6Data: z.array(IpamData).nullish(),
});
export const CreateEndpoint = EndpointOnly.extend({
  Interface: z
    .object({
      Address: optional(Cidr).optional(),
      AddressIPv6: optional(Cidr).optional(),
      MacAddress: optional(Mac).optional(),
    })
    .nullish(),
  Options: z.object({ "com.docker.network.endpoint.sysctls": z.string().nullish() }).nullish(),
});
export const Join = EndpointOnly.extend({ SandboxKey: z.string().min(1) });
export const ProgramExternalConnectivity = EndpointOnly.extend({ Options: SandboxOptions.nullish() });
/** Swarm's manager asks for these, of drivers of global scope; tsnet is local. */
export const AllocateNetwork = z.object({
  NetworkID: Id,
  Options: z.record(z.string(), z.string()).nullish(),
});
export const Discovery = z.object({ DiscoveryType: z.number(), DiscoveryData: z.unknown() });
