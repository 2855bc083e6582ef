import { type BridgeFacts, type GatewayMode, bridgeRules } from "../../src/firewall/bridge-rules.ts";
import {
  openPortRule,
  portRules as rulesOfPort,
  relayedRule,
  sharedRule,
} from "../../src/firewall/port-rules.ts";
import type { Rule } from "../../src/firewall/rule.ts";
import type { Family } from "../../src/ip.ts";
import type { Protocol } from "../../src/model.ts";

const MODES: readonly GatewayMode[] = ["nat", "nat-unprotected", "routed", "isolated"];
const BOTH = [true, false] as const;
const FACTS = {
  4: { subnets: ["10.1.0.0/16", "10.9.0.0/24"], hostAddress: "192.0.2.7" },
  6: { subnets: ["fd01::/64"], hostAddress: "2001:db8::7" },
} as const;

/** The rules of one kind of bridge network. */
export interface RuleSet {
  readonly mode: GatewayMode;
  readonly family: Family;
  /** Every combination of options that has these rules, one line each. */
  readonly titles: readonly string[];
  readonly rules: readonly Rule[];
}

/** The rules of bridge networks with every combination of what they depend on; combinations with equal rules together. */
export function ruleSets(): RuleSet[] {
  const sets = new Map<string, RuleSet>();
  for (const { title, network } of networks()) {
    const { mode, family } = network;
    const rules = bridgeRules(network);
    const key = JSON.stringify([mode, family, rules]);
    const titles = [...(sets.get(key)?.titles ?? []), title];
    sets.set(key, { mode, family, titles, rules });
  }
  return [...sets.values()];
}

/** The rules of published ports: every protocol, one address and all, containers kept apart, the first and last ports of leaves of the tree. */
export function portRules(family: Family): Rule[] {
  const [any, one, containerAddress] =
    family === 4 ? ["0.0.0.0", "192.0.2.7", "10.1.0.2"] : ["::", "2001:db8::7", "fd01::2"];
  const port = {
    family,
    containerAddress,
    containerPort: 80,
    bridge: "ts-43f126c4baed",
    comment: "tsnet-43f126c4baed",
    icc: true,
    gateways: family === 4 ? ["10.1.0.1/16", "10.9.0.1/24"] : ["fd01::1/64"],
  };
  const apart = { ...port, icc: false };
  const inhibited = { ...port, gateways: [] };
  const protocols: readonly Protocol[] = ["tcp", "udp", "sctp"];
  const each = protocols.flatMap((protocol) => [
    ...[1, 15, 16, 8080, 8081, 40_000, 65_535].flatMap((hostPort) =>
      rulesOfPort({ ...port, protocol, hostAddress: any, hostPort }),
    ),
    ...rulesOfPort({ ...port, protocol, hostAddress: one, hostPort: 8082 }),
    ...rulesOfPort({ ...apart, protocol, hostAddress: any, hostPort: 8083 }),
    ...rulesOfPort({ ...apart, protocol, hostAddress: one, hostPort: 8084 }),
    ...rulesOfPort({ ...inhibited, protocol, hostAddress: any, hostPort: 8086 }),
    openPortRule({ ...port, protocol }),
    ...[any, one].map((hostAddress) => relayedRule({ ...port, protocol, hostAddress, hostPort: 8085 })),
  ]);
  return [...each, sharedRule(port, family === 4 ? "10.2.0.0/16" : "fd02::/64")];
}

function networks(): { title: string; network: BridgeFacts }[] {
  return MODES.flatMap((mode) =>
    ([4, 6] as const).flatMap((family) =>
      BOTH.flatMap((internal) =>
        BOTH.flatMap((icc) =>
          BOTH.flatMap((masquerade) =>
            BOTH.map((fixed) => ({
              title: `IPv${family} internal=${String(internal)} icc=${String(icc)} masquerade=${String(masquerade)} host=${fixed ? FACTS[family].hostAddress : "-"}`,
              network: {
                ...{ family, mode, internal, icc, masquerade },
                ...{ bridge: "ts-43f126c4baed", comment: "tsnet-43f126c4baed" },
                subnets: FACTS[family].subnets,
                ...(fixed ? { hostAddress: FACTS[family].hostAddress } : {}),
              },
            })),
          ),
        ),
      ),
    ),
  );
}
