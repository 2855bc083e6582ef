import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { type BridgeFacts, type GatewayMode, bridgeRules } from "../../src/firewall/bridge-rules.ts";
import { Firewall } from "../../src/firewall/firewall.ts";
import { openPortRule, portRules } from "../../src/firewall/port-rules.ts";
import type { Rule } from "../../src/firewall/rule.ts";
import { FAMILIES, type Family, bare, subnetOf } from "../../src/ip.ts";
import { run } from "../lab/command.ts";
import { mustBeIsolated, setSysctl } from "../support/isolated.ts";
import {
  BEHIND_GATEWAY,
  type Fate,
  GUESTS,
  type Guest,
  HOST,
  type Packet,
  type Place,
  Surroundings,
} from "../support/matrix.ts";
import { ruleSets } from "../support/rule-sets.ts";

/** What a network's rules depend on, as its options say it for one family. */
type Options = Pick<BridgeFacts, "mode" | "internal" | "icc" | "masquerade" | "hostAddress">;

/** What a matrix depends on. */
interface Facts {
  readonly family: Family;
  /** Of the network under test. */
  readonly options: Options;
}

/** Whom something is sent to, and how. */
type Target = Place | "its gateway" | "c2 by the gateway" | "c1 by the host's port";

/** What is sent: of a container's ports, two are published or open, and two are not. */
const KINDS = {
  ping: { protocol: "ping", port: 0 },
  tcp: { protocol: "tcp", port: 4080 },
  udp: { protocol: "udp", port: 4090 },
  "open tcp": { protocol: "tcp", port: 80 },
  "open udp": { protocol: "udp", port: 53 },
} as const;
type Kind = keyof typeof KINDS;
const ALL = Object.keys(KINDS) as Kind[];
const OPEN = ["open tcp", "open udp"] as const;
/** The host's port is the container's and this. */
const ON_HOST = 8000;

const PLAIN: Options = { mode: "nat", internal: false, icc: true, masquerade: true };
/** The networks beside the one under test. */
const OTHERS: Partial<Record<Place, Options>> = {
  nat: PLAIN,
  routed: { ...PLAIN, mode: "routed" },
  internal: { ...PLAIN, internal: true },
};

/** Who sends what to whom: everybody to everybody. What the outside can reach of the engine's is the engine's to say. */
const PROBES = [...(Object.keys(GUESTS) as Guest[]), "host" as const].flatMap((from, _, places) => {
  const targets: Target[] = places.filter((to) => to !== from && !(from === "outside" && to === "engine"));
  if (from !== "host" && from !== "outside") targets.push("its gateway");
  if (from === "c1") targets.push("c2 by the gateway");
  return [
    ...targets.flatMap((to) => ALL.map((kind) => ({ from, to, kind }))),
    ...OPEN.map((kind) => ({ from, to: "c1 by the host's port" as const, kind })),
  ];
});
type Probe = (typeof PROBES)[number];

/**
 * Whether it must arrive, by what the options of a network mean (README, "Options"; GatewayMode; BridgeNetwork). No
 * thought of rules in here.
 */
function arrives({ from, to, kind }: Probe, options: Options): boolean {
  const of = (place: Place) => (isUnderTest(place) ? options : OTHERS[place]);
  const sender = of(from);
  if (to === "its gateway") return sender?.mode !== "isolated";
  if (to === "c2 by the gateway") return options.icc && options.mode !== "isolated";
  if (to === "c1 by the host's port")
    // Engines ask for ports of internal networks as well, and are not given them.
    return !isClosed(options) && options.mode !== "routed" && !isClosed(sender);
  if (to === "host" || to === "outside") return !isClosed(sender);
  const target = of(to);
  if (from === "host") return target?.mode !== "isolated";
  if (isUnderTest(from) && isUnderTest(to)) return options.icc;
  if (from !== "outside" || isClosed(target)) return false;
  if (target?.mode === "routed") return kind === "ping" || (isOpen(kind) && to !== "c2");
  return target?.mode === "nat-unprotected";
}

/** Whose address the target sees. */
function seenAs({ from, to }: Probe, { family, options }: Facts): string {
  const host = HOST.first[family];
  if (from === "host") return to in GUESTS ? gatewayOf(to as Guest, family) : host;
  // It would answer its neighbour past the host; and the engine hides whatever is its own.
  const hidden = (from === "c2" && options.icc) || from === "engine";
  if (to === "c1 by the host's port" && hidden) return gatewayOf("c1", family);
  if (to === "outside") {
    const { mode, masquerade, hostAddress } = (isUnderTest(from) ? options : OTHERS[from]) ?? PLAIN;
    if (masquerade && mode !== "routed") return hostAddress ?? host;
  }
  return bare(GUESTS[from].own[family]);
}

function gatewayOf(name: Guest, family: Family): string {
  return bare(GUESTS[name].gateway[family]);
}

function isOpen(kind: Kind): boolean {
  return OPEN.some((open) => open === kind);
}

function isUnderTest(place: Place): boolean {
  return place === "c1" || place === "c2";
}

/** Nothing gets in or out, if it is a network of tsnet's at all. One that is isolated has to be internal. */
function isClosed(options: Options | undefined): boolean {
  return options !== undefined && (options.internal || options.mode === "isolated");
}

/** The options in a rule set's title. */
function optionsOf(title: string, mode: GatewayMode): Options {
  const [, internal, icc, masquerade, host = ""] =
    /internal=(\w+) icc=(\w+) masquerade=(\w+) host=(\S+)$/.exec(title) ?? assert.fail(title);
  const flags = { internal: internal === "true", icc: icc === "true", masquerade: masquerade === "true" };
  return { mode, ...flags, ...(host === "-" ? {} : { hostAddress: host }) };
}

/** What the daemon carries, to oneself or between containers that are kept apart, gets as far as the host: no daemon is there. */
function packetOf({ from, to, kind }: Probe, family: Family, { mode, icc }: Options): Packet {
  const { protocol, port } = KINDS[kind];
  const sent = { from, protocol, port };
  const host = { ...sent, to: HOST.first[family], at: "host" } as const;
  if (to === "c1 by the host's port")
    return {
      ...host,
      port: ON_HOST + port,
      at: (from === "c1" || (from === "c2" && !icc)) && mode !== "routed" ? "host" : "c1",
    };
  if (to === "c2 by the gateway") return { ...sent, to: BEHIND_GATEWAY[family], at: "c2" };
  if (to === "its gateway" && from !== "host") return { ...host, to: gatewayOf(from, family) };
  if (to === "its gateway" || to === "host") return host;
  return { ...sent, to: bare(GUESTS[to].own[family]), at: to };
}

/** What did not go as it should, a line for each probe. */
function disagreements(fates: readonly Fate[], facts: Facts): string[] {
  return PROBES.flatMap((probe, index) => {
    const { from, to, kind } = probe;
    const { source = "nobody", answered } = fates[index] ?? assert.fail();
    const expected = arrives(probe, facts.options) ? seenAs(probe, facts) : "nobody";
    if (source !== expected) return [`${from} > ${to}, ${kind}: from ${source}, not ${expected}`];
    const unanswered = source !== "nobody" && !answered && KINDS[kind].protocol !== "udp";
    return unanswered ? [`${from} > ${to}, ${kind}: no answer`] : [];
  });
}

/** What publishes or opens the ports of a container. */
function portsOf(name: Guest, family: Family, { mode, icc }: Pick<Options, "mode" | "icc">): Rule[] {
  return OPEN.flatMap((kind) => {
    const { protocol, port: containerPort } = KINDS[kind];
    const { link: bridge, own, gateway } = GUESTS[name];
    const containerAddress = bare(own[family]);
    const port = { family, protocol, containerPort, containerAddress, bridge, comment: commentOf(name) };
    if (mode === "routed") return openPortRule(port);
    return portRules({
      ...port,
      icc,
      gateways: [gateway[family]],
      hostAddress: family === 4 ? "0.0.0.0" : "::",
      hostPort: ON_HOST + containerPort,
    });
  });
}

function commentOf(name: Guest): string {
  return GUESTS[name].link.replace("ts-", "tsnet-");
}

/** The engine's own rules as far as they matter here: its containers get out, hidden behind the host. */
function engineRules(family: Family): string {
  return `*filter
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -i docker0 -j ACCEPT
COMMIT
*nat
-A POSTROUTING -s ${subnetOf(GUESTS.engine.own[family])} ! -o docker0 -j MASQUERADE
COMMIT
`;
}

async function restore(family: Family, input: string): Promise<void> {
  await run([family === 4 ? "iptables-restore" : "ip6tables-restore", "--noflush"], { input });
}

/** What must not pass is tried where nobody else drops it, and what must pass where everybody else does. */
const CONDITIONS = [
  { policy: "ACCEPT", bridged: false },
  { policy: "DROP", bridged: true },
] as const;

/** Not every kernel has br_netfilter loaded. */
async function set(family: Family, { policy, bridged }: (typeof CONDITIONS)[number]): Promise<void> {
  await restore(family, `*filter\n:FORWARD ${policy} [0:0]\nCOMMIT\n`);
  const name = `net/bridge/bridge-nf-call-${family === 4 ? "iptables" : "ip6tables"}`;
  if (existsSync(`/proc/sys/${name}`)) await setSysctl(name, bridged ? "1" : "0");
}

describe("rules of a bridge network, tried with packets", () => {
  const firewall = new Firewall();
  let surroundings: Surroundings;
  const send = (family: Family, options: Options) =>
    surroundings.send(
      family,
      PROBES.map((probe) => packetOf(probe, family, options)),
    );

  before(async () => {
    mustBeIsolated();
    surroundings = await Surroundings.start();
    for (const family of FAMILIES) await restore(family, engineRules(family));
    firewall.setEngineBridges([{ name: "docker0", internal: false, subnets: [] }]);
  });
  after(() => {
    // Links and rules go with the namespace.
    firewall.close();
    surroundings.stop();
  });

  for (const family of FAMILIES)
    it(`keep out what arrives without them, IPv${family}`, async () => {
      await set(family, CONDITIONS[0]);
      const ports = firewall.rules("ports", portsOf("c1", family, PLAIN));
      await ports.apply();
      const fates = await send(family, PLAIN);
      await ports.revert();
      const lost = PROBES.filter((_, index) => fates[index]?.source === undefined);
      assert.deepEqual(lost, []);
    });

  describe("beside other networks", () => {
    before(async () => {
      for (const family of FAMILIES)
        for (const [name, options] of Object.entries(OTHERS) as [Guest, Options][]) {
          const { link: bridge, own } = GUESTS[name];
          const network = { ...options, family, bridge, subnets: [subnetOf(own[family])] };
          const rules = bridgeRules({ ...network, comment: commentOf(name) });
          const ports = options.mode === "routed" ? portsOf(name, family, options) : [];
          await firewall.rules(name, [...rules, ...ports]).apply();
        }
    });

    for (const { mode, family, titles, rules } of ruleSets())
      it(`let pass what the options say and nothing else: ${mode}, ${titles[0] ?? ""}`, async () => {
        // Combinations that have the same rules must mean the same.
        const [first = assert.fail(), ...same] = titles.map((title) => optionsOf(title, mode));
        const there = mode !== "isolated";
        await surroundings.isolate(!first.icc);
        // The backend refuses what is isolated but not internal: that nobody can find the host is all there is to it.
        await surroundings.gateways(family, { there, known: there || first.internal });
        const ports = isClosed(first) ? [] : portsOf("c1", family, first);
        const step = firewall.rules("rules under test", [...rules, ...ports]);
        await step.apply();
        try {
          for (const condition of CONDITIONS) {
            await set(family, condition);
            const fates = await send(family, first);
            for (const options of [first, ...same]) {
              const wrong = disagreements(fates, { family, options });
              assert.deepEqual({ ...condition, wrong }, { ...condition, wrong: [] });
            }
          }
        } finally {
          await step.revert();
        }
      });
  });
});
