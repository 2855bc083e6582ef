import * as z from "zod";
import { interfacePrefix, linkName, mtu, unless } from "./option-types.ts";

/** The longest name that a link can have beside its own (ALTIFNAMSIZ, linux/if.h, less the zero at its end). */
const ALTNAME_LENGTH = 127;

const MODES = ["bridge", "private", "vepa", "passthru"] as const;

const mode = z.enum(MODES, {
  error: ({ input }) => `is "${String(input)}", but must be one of ${MODES.join(", ")}`,
});

const onOff = z
  .enum(["on", "off", "true", "false"], {
    error: ({ input }) => `is "${String(input)}", but must be on or off`,
  })
  .transform((text) => text === "on" || text === "true");

/**
 * Options of the macvlan backend. What the engine's macvlan driver has as well has its name and its meaning.
 */
export const MacvlanOptions = z.object({
  backend: z.literal("macvlan").meta({ description: "how containers are connected", default: "`bridge`" }),
  parent: unless("", linkName(ALTNAME_LENGTH).optional()).optional().meta({
    description:
      "Ethernet link of the host that the containers sit on; an existing one is never changed or deleted. `LINK.ID` creates that VLAN if it is missing, and deletes it with its last network unless others use it by then",
    default: "a private one that leads nowhere",
  }),
  macvlan_mode: unless("", mode.default("bridge")).default("bridge").meta({
    description:
      "which containers on the same parent reach each other: all (bridge), none (private), those to which the switch sends frames back (vepa); passthru is for a single container",
  }),
  host_access: onOff.default(false).meta({
    description:
      "`on`: the host and the containers reach each other (mode bridge only), at the parent's addresses within the network's subnets or those reserved with `--aux-address host=…` and `host6=…`",
    default: "`off`",
  }),
  "com.docker.network.driver.mtu": mtu.meta({
    description: "MTU of the containers, in bytes; at most the parent's, which it follows",
    default: "the parent's",
  }),
  "com.docker.network.container_iface_prefix": interfacePrefix.meta({
    description: "name of interfaces in the container, before their number",
  }),
});

/** The macvlan backend's options, parsed. */
export type MacvlanOptions = z.infer<typeof MacvlanOptions>;
