import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { FAMILIES, type Family, bare } from "../../src/ip.ts";
import { run } from "../lab/command.ts";
import { Ear, type Heard } from "./ear.ts";
import { ip, setSysctl } from "./isolated.ts";

/** Something for each family. */
type Both<T = string> = Readonly<Record<Family, T>>;

/** How a guest hangs on the host: the link there, with the gateway's address, and its own, both with prefix length. */
interface Hanging {
  readonly link: string;
  readonly gateway: Both;
  readonly own: Both;
}

/** Bridge of the network under test, as rule-sets.ts has it. */
const BRIDGE = "ts-43f126c4baed";
const UNDER_TEST = ["c1", "c2"] as const;
const WIRE = "wire";

/** The host's addresses to the outside, bare: its first, and the one that rule-sets.ts has networks masquerade as. */
export const HOST = {
  first: { 4: "192.0.2.1", 6: "2001:db8::1" },
  other: { 4: "192.0.2.7", 6: "2001:db8::7" },
} as const;
/** Addresses of c2's, bare, that c1 reaches by way of the gateway only. */
export const BEHIND_GATEWAY = { 4: "10.9.0.4", 6: "fd01::4" } as const;

/**
 * Everybody but the host, each in a namespace of its own:
 *
 *   c1 ─┬─ BRIDGE, under test ─┐        ┌─ ts-…, ts-…, ts-… ─ nat, routed, internal: each alone on a network
 *   c2 ─┘                      ├─ host ─┼─ docker0 ────────── engine: a container of the engine's
 *                              │        └─ wire ───────────── outside: it has routes to all of them
 */
export const GUESTS = {
  c1: { link: BRIDGE, gateway: both("10.1.0.1/16", "fd01::1/64"), own: both("10.1.0.2/16", "fd01::2/64") },
  c2: { link: BRIDGE, gateway: both("10.9.0.1/24", "fd01::1/64"), own: both("10.9.0.3/24", "fd01::3/64") },
  nat: alone("ts-000000000002", 2),
  routed: alone("ts-000000000003", 3),
  internal: alone("ts-000000000004", 4),
  engine: alone("docker0", 5),
  outside: {
    ...{ link: WIRE, gateway: both(`${HOST.first[4]}/24`, `${HOST.first[6]}/64`) },
    own: both("192.0.2.2/24", "2001:db8::2/64"),
  },
} satisfies Record<string, Hanging>;

export type Guest = keyof typeof GUESTS;
export type Place = Guest | "host";
const NAMES = Object.keys(GUESTS) as Guest[];
const LINKS = [...new Set(NAMES.map((name) => GUESTS[name].link))];

/** A packet that is to be sent: an echo request, the first of a connection, or a datagram. */
export interface Packet {
  readonly from: Place;
  readonly protocol: "ping" | "tcp" | "udp";
  /** Bare. */
  readonly to: string;
  readonly port: number;
  /** Who is to get it in the end. */
  readonly at: Place;
}

/** What became of a packet. */
export interface Fate {
  /** Whom it came from when it arrived, a bare address; undefined: it did not arrive. */
  readonly source: string | undefined;
  /** An answer arrived as well. What answers a datagram is an error, and those are not counted. */
  readonly answered: boolean;
}

/** When nothing has arrived for this long, everything has: only the kernel has a hand in it. */
const QUIET_MS = 100;

/** Everybody that a network under test can reach or be reached by; this process's own namespace is the host. */
export class Surroundings {
  readonly #children: ChildProcess[] = [];
  readonly #ears = new Map<Place, Both<Ear>>();
  /** Of the packet sent last. No other has the same, so it is known wherever it arrives, and no connection is. */
  #number = 10_000;

  /** Makes them, in a namespace that must be empty. */
  static async start(): Promise<Surroundings> {
    const made = new Surroundings();
    for (const _ of NAMES) made.#children.push(await unshared());
    for (const place of [...NAMES, "host" as const]) {
      const netns = place === "host" ? "/proc/self/ns/net" : made.#netns(place);
      made.#ears.set(place, { 4: new Ear(netns, 4), 6: new Ear(netns, 6) });
    }
    await run(["sh", "-ec", LET_IN]);
    for (const name of ["ipv4/ip_forward", "ipv6/conf/all/forwarding"]) await setSysctl(`net/${name}`, "1");
    await ip(...hostLinks(made.#children.map(({ pid }) => pid)), ...hostNeighbours());
    for (const name of NAMES) await made.#ip(name, guestCommands(name));
    return made;
  }

  /** Whether the bridge under test keeps its ports apart, as the backend has it where containers may not talk. */
  async isolate(value: boolean): Promise<void> {
    const state = `type bridge_slave isolated ${value ? "on" : "off"}`;
    await ip(...UNDER_TEST.map((name) => `link set port-${name} ${state}`));
  }

  /**
   * Whether the bridge under test has the gateways' addresses, and whether its containers know its MAC: whoever has
   * an address tells it, and somebody may have found it out.
   */
  async gateways(family: Family, { there, known }: { there: boolean; known: boolean }): Promise<void> {
    // Put before it is deleted, since what is not there cannot be.
    const put = (what: string, stays: boolean) => (line: string) => [
      `${what} replace ${line}`,
      ...(stays ? [] : [`${what} delete ${line}`]),
    ];
    const addresses = new Set(UNDER_TEST.map((name) => addressOn(BRIDGE, GUESTS[name].gateway[family])));
    // IPv4 forgets its neighbours with its last address.
    await ip(...[...addresses].flatMap(put("address", there)), ...hostNeighbours());
    for (const name of UNDER_TEST) {
      const entry = neighbour(bare(GUESTS[name].gateway[family]), BRIDGE, "eth0");
      await this.#ip(name, put("neigh", known)(entry));
    }
  }

  /** Sends all of them at once, and listens until nothing arrives any more. @returns fates in the same order */
  async send(family: Family, packets: readonly Packet[]): Promise<Fate[]> {
    const first = this.#number + 1;
    for (const { from, protocol, to, port } of packets) {
      this.#number += 1;
      this.#ears.get(from)?.[family].say(protocol, this.#number, to, port);
    }
    const heard = await this.#listen(family);
    return packets.map(({ from, at }, index) => {
      const mine = heard.filter(({ number }) => number === first + index);
      return {
        source: mine.find(({ place, answer }) => place === at && !answer)?.source,
        answered: mine.some(({ place, answer }) => place === from && answer),
      };
    });
  }

  /** Ends everybody but the host. */
  stop(): void {
    for (const child of this.#children) child.kill("SIGKILL");
    for (const ears of this.#ears.values()) {
      ears[4].close();
      ears[6].close();
    }
  }

  async #listen(family: Family): Promise<(Heard & { place: Place })[]> {
    const all: (Heard & { place: Place })[] = [];
    for (let last = Date.now(); Date.now() - last < QUIET_MS;) {
      await sleep(QUIET_MS / 4);
      const before = all.length;
      for (const [place, ears] of this.#ears)
        all.push(...ears[family].hear().map((packet) => ({ ...packet, place })));
      if (all.length > before) last = Date.now();
    }
    return all;
  }

  #netns(name: Guest): string {
    return `/proc/${String(this.#children[NAMES.indexOf(name)]?.pid)}/ns/net`;
  }

  async #ip(name: Guest, commands: readonly string[]): Promise<void> {
    const batch = ["nsenter", `--net=${this.#netns(name)}`, "ip", "-batch", "-"];
    await run(batch, { input: `${commands.join("\n")}\n` });
  }
}

/** Only rules drop anything, and nobody is told of a way past them. */
const LET_IN = `cd /proc/sys/net && for which in all default; do
  echo 0 | tee ipv4/conf/$which/rp_filter ipv?/conf/$which/accept_redirects >/dev/null
done`;

function both(v4: string, v6: string): Both {
  return { 4: v4, 6: v6 };
}

function alone(link: string, number: number): Hanging {
  const cidrs = (last: number) => both(`10.${number}.0.${last}/16`, `fd0${number}::${last}/64`);
  return { link, gateway: cidrs(1), own: cidrs(2) };
}

/** A process that keeps a network namespace for as long as this one lives. */
async function unshared(): Promise<ChildProcess> {
  const holder = ["unshare", "--net", "sh", "-ec", `${LET_IN}; ip link set lo up; echo; exec sleep infinity`];
  const child = spawn("setpriv", ["--pdeathsig=KILL", ...holder], { stdio: ["ignore", "pipe", "inherit"] });
  await once(child.stdout, "data");
  child.stdout.destroy();
  child.unref();
  return child;
}

/** MAC of a link of the host's, or of a guest. */
function mac(of: string): string {
  return `02:00:00:00:00:${[...LINKS, ...NAMES].indexOf(of).toString(16).padStart(2, "0")}`;
}

function addressOn(link: string, cidr: string): string {
  return `${cidr} dev ${link}${cidr.includes(":") ? " nodad" : ""}`;
}

/** Nobody is asked for a MAC: a question without an answer would delay what is sent next. */
function neighbour(address: string, of: string, link: string): string {
  return `${address} lladdr ${mac(of)} nud permanent dev ${link}`;
}

function hostLinks(pids: readonly (number | undefined)[]): string[] {
  const gateways = NAMES.flatMap((name) =>
    FAMILIES.map((family) => addressOn(GUESTS[name].link, GUESTS[name].gateway[family])),
  );
  return [
    ...LINKS.filter((link) => link !== WIRE).map(
      (link) => `link add ${link} address ${mac(link)} type bridge`,
    ),
    ...NAMES.map((name, index) => {
      const { link } = GUESTS[name];
      const near = link === WIRE ? `${link} address ${mac(link)}` : `port-${name} master ${link}`;
      return `link add ${near} up type veth peer name eth0 address ${mac(name)} netns ${String(pids[index])}`;
    }),
    ...LINKS.map((link) => `link set ${link} up`),
    ...[...new Set(gateways)].map((gateway) => `address add ${gateway}`),
    `address add ${HOST.other[4]}/24 dev ${WIRE}`,
    // Deprecated, so that it is nobody's first choice.
    `address add ${HOST.other[6]}/64 dev ${WIRE} nodad preferred_lft 0`,
  ];
}

function hostNeighbours(): string[] {
  return FAMILIES.flatMap((family) => [
    ...NAMES.map((name) => neighbour(bare(GUESTS[name].own[family]), name, GUESTS[name].link)),
    neighbour(BEHIND_GATEWAY[family], "c2", BRIDGE),
  ]).map((line) => `neigh replace ${line}`);
}

function guestCommands(name: Guest): string[] {
  const { link, gateway, own } = GUESTS[name];
  const known = FAMILIES.flatMap((family) => [
    neighbour(bare(gateway[family]), link, "eth0"),
    ...(link === WIRE ? [neighbour(HOST.other[family], WIRE, "eth0")] : []),
    ...(link === BRIDGE
      ? UNDER_TEST.map((peer) => neighbour(bare(GUESTS[peer].own[family]), peer, "eth0"))
      : []),
  ]);
  return [
    "link set eth0 up",
    ...FAMILIES.map((family) => `address add ${addressOn("eth0", own[family])}`),
    ...FAMILIES.map((family) => `route add default via ${bare(gateway[family])}`),
    ...known.map((line) => `neigh replace ${line}`),
    ...(BETWEEN[name] ?? []),
  ];
}

/** How c1 and c2 reach each other directly, although their IPv4 subnets differ, and by way of the gateway. */
const BETWEEN: Partial<Record<Guest, readonly string[]>> = {
  c1: [
    "route add 10.9.0.0/24 dev eth0",
    `route add ${BEHIND_GATEWAY[4]}/32 via 10.1.0.1`,
    `route add ${BEHIND_GATEWAY[6]}/128 via fd01::1`,
  ],
  c2: [
    "route add 10.1.0.0/16 dev eth0",
    `address add ${BEHIND_GATEWAY[4]}/24 dev eth0`,
    `address add ${BEHIND_GATEWAY[6]}/64 dev eth0 nodad preferred_lft 0`,
  ],
};
