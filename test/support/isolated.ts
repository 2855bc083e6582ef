import { readFileSync, readlinkSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { LEAVING_GROUP, LINK_GROUP } from "../../src/names.ts";
import { run } from "../lab/command.ts";
import { until } from "./until.ts";

/** Settings of a link that tsnet changes for its own. */
const LINK_SYSCTLS = [
  "net/ipv4/conf/LINK/forwarding",
  "net/ipv4/conf/LINK/route_localnet",
  "net/ipv6/conf/LINK/accept_ra",
  "net/ipv6/conf/LINK/accept_dad",
  "net/ipv6/conf/LINK/disable_ipv6",
  "net/ipv6/conf/LINK/forwarding",
];

/** As iproute2 says it with `-j -d`: what tests look at. */
export interface IpLink {
  readonly ifname: string;
  readonly ifindex: number;
  readonly flags: readonly string[];
  readonly mtu: number;
  readonly address: string;
  readonly master?: string;
  readonly group: string;
  readonly ifalias?: string;
  readonly gso_max_size?: number;
  readonly linkinfo?: {
    readonly info_kind?: string;
    readonly info_slave_data?: { readonly isolated?: boolean; readonly hairpin?: boolean };
  };
}

/** Everything on the host that tsnet may touch, as iproute2 and iptables see it. */
export interface HostState {
  /** By name, without what differs each time (the index). */
  readonly links: Readonly<Record<string, object>>;
  /** `NAME ADDRESS/LENGTH`, without link-local ones, which the kernel gives. */
  readonly addresses: readonly string[];
  readonly rules: Readonly<Record<4 | 6, readonly string[]>>;
  readonly routes: readonly string[];
  /** Those that are permanent. */
  readonly neighbours: readonly string[];
  /** Protocol and address of what listens. */
  readonly sockets: readonly string[];
}

/**
 * Refuses to go on in the machine's own namespace: these tests flush rules and delete links.
 * scripts/test gives each of their files a namespace of its own.
 */
export function mustBeIsolated(): void {
  const outside = process.env["TSNET_TEST_OUTSIDE"];
  if (outside === undefined || outside === readlinkSync("/proc/self/ns/net"))
    throw new Error("not in a network namespace of its own: run it with `scripts/test FILE`");
}

/** Runs commands of `ip`, one after the other, their arguments separated by spaces. */
export async function ip(...commands: readonly string[]): Promise<void> {
  await run(["ip", "-batch", "-"], { input: `${commands.join("\n")}\n` });
}

/** Gives the host a wire, `wire0`, up, with its addresses, whose other end is `wire1`: a parent for macvlan. */
export async function plugWire(): Promise<void> {
  await ip(
    "link add wire0 type veth peer name wire1",
    "link set wire0 address 02:00:00:00:00:01 up",
    "link set wire1 address 02:00:00:00:00:02 up",
    "address add 10.1.0.200/16 dev wire0",
    "address add fd01::200/64 dev wire0 nodad",
  );
}

/** Every link. */
export async function ipLinks(): Promise<IpLink[]> {
  return JSON.parse((await run(["ip", "-j", "-d", "link"])).stdout) as IpLink[];
}

/** The link of that name, or undefined. */
export async function ipLink(name: string): Promise<IpLink | undefined> {
  return (await ipLinks()).find(({ ifname }) => ifname === name);
}

/** The addresses of a link with their prefix lengths, link-local ones left out. */
export async function ipAddresses(name: string): Promise<string[]> {
  return (await hostAddresses()).flatMap((text) =>
    text.startsWith(`${name} `) ? [text.slice(name.length + 1)] : [],
  );
}

async function hostAddresses(): Promise<string[]> {
  const links = JSON.parse((await run(["ip", "-j", "addr"])).stdout) as {
    ifname: string;
    addr_info: { local: string; prefixlen: number; scope: string }[];
  }[];
  return links
    .flatMap(({ ifname, addr_info }) =>
      addr_info
        .filter(({ scope }) => scope !== "link")
        .map(({ local, prefixlen }) => `${ifname} ${local}/${prefixlen}`),
    )
    .sort();
}

/**
 * The rules of a family in iptables-save's words, each with its table: `mangle -A FORWARD …`. Chains are
 * `mangle :NAME POLICY`; built-in ones are left out while their policy is ACCEPT.
 */
export async function ruleLines(
  family: 4 | 6,
  save = family === 4 ? "iptables-save" : "ip6tables-save",
): Promise<string[]> {
  const { stdout } = await run([save]);
  let table = "";
  return stdout.split("\n").flatMap((line) => {
    if (line.startsWith("*")) table = line.slice(1);
    if (line.startsWith(":")) {
      const [name, policy] = line.split(" ");
      return policy === "ACCEPT" ? [] : [`${table} ${name} ${policy}`];
    }
    return line.startsWith("-A") ? [`${table} ${line}`] : [];
  });
}

/** Everything, once no link is on its way out any more. */
export async function hostState(): Promise<HostState> {
  const leaving = async () => (await ipLinks()).some(({ group }) => group === String(LEAVING_GROUP));
  await until("links on their way out are gone", async () => !(await leaving()));
  const links = (await ipLinks()).map(({ ifname, flags, linkinfo, ...link }) => {
    const { mtu, address, master, group, ifalias, gso_max_size: packets } = link;
    const state = {
      ...{ mtu, address, master, group, ifalias },
      // A bridge of tsnet's gets larger ones with its first port, and keeps them.
      ...(group === String(LINK_GROUP) ? {} : { packets }),
      up: flags.includes("UP"),
      kind: linkinfo?.info_kind,
      isolated: linkinfo?.info_slave_data?.isolated,
      hairpin: linkinfo?.info_slave_data?.hairpin,
      sysctls: LINK_SYSCTLS.map((key) => readSysctl(key.replace("LINK", ifname))),
    };
    return [ifname, state];
  });
  return {
    links: Object.fromEntries(links) as Record<string, object>,
    addresses: await hostAddresses(),
    rules: { 4: await ruleLines(4), 6: await ruleLines(6) },
    ...(await leadsAndListens()),
  };
}

async function leadsAndListens(): Promise<Pick<HostState, "routes" | "neighbours" | "sockets">> {
  // One program, since each that is started costs the test as much as all of these together.
  const commands = ["ip -4 route", "ip -6 route", "ip neigh show nud permanent", "ss -Hln -A tcp,udp,sctp"];
  const { stdout } = await run(["sh", "-ec", commands.join("; echo =;")]);
  const [v4 = [], v6 = [], neighbours = [], sockets = []] = stdout
    .split("=\n")
    .map((part) => part.split("\n").filter(Boolean));
  return {
    // The kernel's own of link-local addresses come when a link has its carrier, in their own time.
    routes: [...v4, ...v6]
      .filter((route) => !route.startsWith("fe80:"))
      .map((route) => route.replace(" linkdown", "").trimEnd())
      .sort(),
    neighbours: neighbours.sort(),
    sockets: sockets
      .map((line) => {
        const [protocol, , , , local] = line.split(/\s+/);
        return `${protocol} ${local}`;
      })
      .sort(),
  };
}

/** Reads a sysctl of this namespace, its name with slashes. */
export function readSysctl(name: string): string {
  return readFileSync(`/proc/sys/${name}`, "utf8").trim();
}

/** Sets a sysctl of this namespace. */
export async function setSysctl(name: string, value: string): Promise<void> {
  await writeFile(`/proc/sys/${name}`, value);
}

/** Takes every link but loopback and every rule off the namespace. */
export async function wipe(): Promise<void> {
  const names = (await ipLinks()).map(({ ifname }) => ifname).filter((name) => name !== "lo");
  // The kernel waits for a grace period once for a whole group, not for each of its links. One may go by itself
  // meanwhile, with the namespace that its other end is in.
  const commands = [...names.map((name) => `link set ${name} group 1`), "link delete group 1"];
  await run(["ip", "-force", "-batch", "-"], { input: `${commands.join("\n")}\n`, allowFailure: true });
  // Without --noflush everything that is not named goes.
  for (const program of ["iptables-restore", "ip6tables-restore"])
    await run([program], { input: EMPTY_TABLES });
}

/** `iptables -F`, and `-X` if asked, in every table of both families, as somebody does by hand. */
export async function flushRules({ chains }: { chains: boolean }): Promise<void> {
  for (const program of ["iptables", "ip6tables"])
    for (const table of Object.keys(CHAINS))
      for (const command of chains ? ["-F", "-X"] : ["-F"])
        // The reconciler may put chains back in between, and then -X finds them in use.
        await run([program, "-w", "-t", table, command], { allowFailure: true });
}

const CHAINS = {
  raw: ["PREROUTING", "OUTPUT"],
  mangle: ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"],
  nat: ["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"],
  filter: ["INPUT", "FORWARD", "OUTPUT"],
} as const;
/** Input for iptables-restore: every table with nothing in it. */
const EMPTY_TABLES = Object.entries(CHAINS)
  .map(([table, chains]) => `*${table}\n${chains.map((name) => `:${name} ACCEPT [0:0]\n`).join("")}COMMIT\n`)
  .join("");
