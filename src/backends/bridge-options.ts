import * as z from "zod";
import { InvalidError } from "../errors.ts";
import { FAMILIES, type Family, UNSPECIFIED, isIp, parseIp } from "../ip.ts";
import type { Network } from "../model.ts";
import { flag, interfacePrefix, mtu, ruledLinkName, unless } from "./option-types.ts";

/** A bare address in its shortest form, as rules have it. */
const address = (family: Family) =>
  z
    .string()
    .refine((text) => isIp(text) && text.includes(":") === (family === 6), {
      error: ({ input }) => `is "${String(input)}", but must be an IPv${String(family)} address`,
    })
    .transform((text) => parseIp(text).address);

const mode = z.enum(["nat", "nat-unprotected", "routed", "isolated"], {
  error: ({ input }) => `is "${String(input)}", but must be nat, nat-unprotected, routed or isolated`,
});

/** Host addresses that published ports listen on by default. */
export type PublishDefault = Readonly<Partial<Record<Family, string>>>;

/** `loopback`, `all`, or one address of the host; what a setting or an option says of published ports. */
export const Publish = z
  .string()
  .refine((text) => text === "loopback" || text === "all" || isIp(text), {
    error: ({ input }) => `is "${String(input)}", but must be loopback, all or an IP address`,
  })
  .transform((text): PublishDefault => {
    if (text === "loopback") return { 4: "127.0.0.1", 6: "::1" };
    if (text === "all") return UNSPECIFIED;
    const { family, address } = parseIp(text);
    return { [family]: address };
  });

/**
 * Options of the bridge backend. Those with a dot in their name have the engine's own names and meanings, so that a
 * compose file changes one word. The defaults are those of the engine's bridge driver.
 */
export const BridgeOptions = z.object({
  backend: z.literal("bridge").default("bridge").meta({ description: "how containers are connected" }),
  publish: Publish.optional().meta({
    description: "host address for published ports: loopback, all, or an address",
    default: "the daemon's --publish",
  }),
  big_tcp: flag.default(false).meta({
    description:
      "packets of up to 512 KiB between containers, as always on internal networks: faster there, slower to the outside",
  }),
  "com.docker.network.bridge.name": unless("", ruledLinkName.optional()).optional().meta({
    description: "name of the bridge; an existing one is used and never deleted",
    default: "`ts-` and 12 digits of the network's id",
  }),
  "com.docker.network.bridge.enable_icc": flag
    .default(true)
    .meta({ description: "whether the network's containers may reach each other" }),
  "com.docker.network.bridge.enable_ip_masquerade": flag
    .default(true)
    .meta({ description: "whether packets to the outside carry the host's address" }),
  "com.docker.network.bridge.host_binding_ipv4": address(4)
    .optional()
    .meta({ description: "the same as `publish`, for IPv4 only", default: "`publish`" }),
  "com.docker.network.bridge.inhibit_ipv4": flag
    .default(false)
    .meta({ description: "keep the gateway's IPv4 address off the bridge" }),
  "com.docker.network.bridge.gateway_mode_ipv4": mode
    .default("nat")
    .meta({ description: "nat, nat-unprotected, routed, or isolated (internal networks only)" }),
  "com.docker.network.bridge.gateway_mode_ipv6": mode
    .default("nat")
    .meta({ description: "the same for IPv6" }),
  "com.docker.network.driver.mtu": mtu.meta({
    description: "MTU of the bridge and the containers, in bytes",
    default: "the MTU of the default route's link",
  }),
  "com.docker.network.container_iface_prefix": interfacePrefix.meta({
    description: "name of interfaces in the container, before their number",
  }),
  "com.docker.network.host_ipv4": address(4).optional().meta({
    description: "source address of masqueraded packets",
    default: "an address of the link they leave by",
  }),
  "com.docker.network.host_ipv6": address(6)
    .optional()
    .meta({ description: "the same for IPv6", default: "an address of the link they leave by" }),
});

/** The bridge backend's options, parsed. */
export type BridgeOptions = z.infer<typeof BridgeOptions>;

/** @throws {InvalidError} for what contradicts itself */
export function mustFit({ options, internal, ipv4, ipv6 }: Network<BridgeOptions>): void {
  if (ipv4.length + ipv6.length === 0)
    throw new InvalidError("a network needs IPv4 or IPv6; add --ipv6, or leave out --ipv4=false");
  for (const family of FAMILIES) {
    const key = `com.docker.network.bridge.gateway_mode_ipv${family}` as const;
    if (options[key] === "isolated" && !internal)
      throw new InvalidError(`option ${key}=isolated needs --internal: an isolated network has no way out`);
  }
}
