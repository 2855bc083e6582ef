import { run } from "../lab/command.ts";
import type { LabHost } from "../lab/host.ts";
import { Namespace } from "../lab/namespace.ts";
import type { Place } from "./site.ts";

/** Where a place is on the LAN, and how it is reached: bare addresses. */
export interface Neighbour extends Place {
  readonly v4: string;
  readonly v6: string;
}

/** The link that a lab host is plugged into the LAN with: a parent for macvlan. */
export const PARENT = "lan0";

const V4 = { subnet: "10.77.0.0/24", gateway: "10.77.0.1" };
const V6 = { subnet: "fd77::/64", gateway: "fd77::1" };
/** Beyond the router. */
const OUTSIDE = { v4: "198.51.100.2", v6: "fd78::2", routerV4: "198.51.100.1", routerV6: "fd78::1" };

/** A switch in a namespace of its own, with a router and a client on it, and somebody outside behind the router. */
export class Lan {
  /** Options of `docker network create` for this LAN's subnets and router. */
  static readonly subnets: readonly string[] = [
    ...["--ipv6", "--subnet", V4.subnet, "--gateway", V4.gateway],
    ...["--subnet", V6.subnet, "--gateway", V6.gateway],
  ];
  readonly client: Neighbour;
  readonly router: Neighbour;
  readonly outside: Neighbour;
  readonly #namespace: Namespace;

  private constructor(namespace: Namespace) {
    this.#namespace = namespace;
    this.router = { ...lanAddress(1), exec: this.#inside("router") };
    this.client = { ...lanAddress(2), exec: this.#inside("client") };
    this.outside = { v4: OUTSIDE.v4, v6: OUTSIDE.v6, exec: this.#inside("outside") };
  }

  static async start(): Promise<Lan> {
    const namespace = await Namespace.start({ name: "lan" });
    try {
      await namespace.exec(["sh", "-ec", WIRING]);
      return new Lan(namespace);
    } catch (error) {
      await namespace.stop();
      throw error;
    }
  }

  /** Plugs a host in: it gets {@link PARENT}, up, with the address of that number. The same host again: a new link. */
  async plug(host: LabHost, number: number): Promise<Neighbour> {
    await this.wire(host, PARENT);
    const { v4, v6 } = lanAddress(number);
    await ip(host, `address add ${v4}/24 dev ${PARENT}`);
    await ip(host, `address add ${v6}/64 dev ${PARENT} nodad`);
    return { v4, v6, exec: (argv, options) => host.exec(argv, options) };
  }

  /** Gives a host a link of that name to a port of the switch, up, without an address. */
  async wire(host: LabHost, name: string): Promise<void> {
    const port = portOf(host, name);
    const namespace = ["nsenter", `--target=${String(this.#namespace.pid)}`, "--net"];
    const add = `link add ${port} type veth peer name ${name} netns ${String(host.pid)}`;
    await run([...namespace, "ip", ...add.split(" ")]);
    await this.#namespace.exec(["ip", "link", "set", port, "master", "switch", "up"]);
    await ip(host, `link set ${name} up`);
  }

  /** Takes a host off: its link is gone, as it may be already. */
  async unplug(host: LabHost, name = PARENT): Promise<void> {
    await host.exec(["ip", "link", "delete", name], { allowFailure: true });
  }

  /** Pulls or puts back the cable at the switch's end. */
  async carrier(host: LabHost, state: "up" | "down"): Promise<void> {
    await this.#namespace.exec(["ip", "link", "set", portOf(host), state]);
  }

  /** Whether the switch sends frames back out of the port they came in by, as vepa needs it (IEEE 802.1Qbg). */
  async reflect(host: LabHost, state: "on" | "off"): Promise<void> {
    await this.#namespace.exec(["bridge", "link", "set", "dev", portOf(host), "hairpin", state]);
  }

  async stop(): Promise<void> {
    await this.#namespace.stop();
  }

  #inside(name: string): Place["exec"] {
    return (argv, options) => this.#namespace.exec(["ip", "netns", "exec", name, ...argv], options);
  }
}

/** The switch's port at the other end of a host's link. */
function portOf(host: LabHost, name = PARENT): string {
  return `${name}-${host.name}`;
}

/** Addresses on the LAN by number: 1 the router, 2 the client, from 11 on hosts, from 100 on containers. */
export function lanAddress(number: number): { readonly v4: string; readonly v6: string } {
  return { v4: `10.77.0.${String(number)}`, v6: `fd77::${number.toString(16)}` };
}

/** Arguments of `docker run` for a LAN address. */
export function addressed(number: number): string[] {
  const { v4, v6 } = lanAddress(number);
  return ["--ip", v4, "--ip6", v6];
}

/** The rows of such a matrix with what is in each in order. */
export function sorted(rows: Readonly<Record<string, readonly string[]>>): Record<string, string[]> {
  return Object.fromEntries(Object.entries(rows).map(([from, to]) => [from, [...to].sort()]));
}

/**
 * Who reaches whom by echo requests of both families. Who is expected to be reached is given time, and who is
 * not is asked with the same tool.
 *
 * @param expected whom each place should reach, by name
 * @returns whom each place reaches; with a 4 or 6 behind the name where only one family does
 */
export async function reach(
  places: Readonly<Record<string, Neighbour>>,
  expected: Readonly<Record<string, readonly string[]>>,
): Promise<Record<string, string[]>> {
  const rows = Object.keys(expected).map(async (from) => {
    const targets = Object.entries(places).filter(([name]) => name !== from);
    const pings = targets.flatMap(([name, { v4, v6 }]) => {
      const patience = expected[from]?.includes(name) ? "5" : "0.7";
      return [
        `(ping -nc1 -W${patience} ${v4} && echo ${name}4=) &`,
        `(ping -nc1 -W${patience} ${v6} && echo ${name}6=) &`,
      ];
    });
    const { stdout } = (await places[from]?.exec(["sh", "-c", `${pings.join("\n")}\nwait`])) ?? {
      stdout: "",
    };
    const answered = new Set(stdout.split("\n"));
    const reached = targets.flatMap(([name]) => {
      const families = ["4", "6"].filter((family) => answered.has(`${name}${family}=`));
      return families.length === 2 ? [name] : families.map((family) => `${name}${family}`);
    });
    return [from, reached] as const;
  });
  return Object.fromEntries(await Promise.all(rows));
}

async function ip(host: LabHost, command: string): Promise<void> {
  await host.exec(["ip", ...command.split(" ")]);
}

const WIRING = `
  plug() {
    ip netns add "$1"
    ip link add "port-$1" type veth peer name eth0 netns "$1"
    ip link set "port-$1" master switch up
    ip -n "$1" link set lo up
    ip -n "$1" link set eth0 up
    ip -n "$1" address add "10.77.0.$2/24" dev eth0
    ip -n "$1" address add "fd77::$2/64" dev eth0 nodad
  }
  ip link add switch type bridge mcast_snooping 0
  ip link set switch up
  plug router 1
  plug client 2
  ip netns add outside
  ip link add eth1 netns router type veth peer name eth0 netns outside
  ip -n router address add ${OUTSIDE.routerV4}/24 dev eth1
  ip -n router address add ${OUTSIDE.routerV6}/64 dev eth1 nodad
  ip -n router link set eth1 up
  ip -n outside link set lo up
  ip -n outside address add ${OUTSIDE.v4}/24 dev eth0
  ip -n outside address add ${OUTSIDE.v6}/64 dev eth0 nodad
  ip -n outside link set eth0 up
  ip -n outside route add default via ${OUTSIDE.routerV4}
  ip -n outside route add default via ${OUTSIDE.routerV6}
  ip -n client route add default via ${V4.gateway}
  ip -n client route add default via ${V6.gateway}
  ip netns exec router sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding'
`;
