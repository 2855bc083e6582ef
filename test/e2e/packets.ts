import type { Place } from "./site.ts";
import { until } from "./until.ts";

/**
 * What can be sent to somebody: an echo request, a TCP connection's first packet and a datagram, by
 * family. Arrivals are counted where they arrive, so that an answer that is lost does not hide them.
 */
export const EVERYTHING = ["ping4", "tcp4", "udp4", "ping6", "tcp6", "udp6"] as const;

/** Somebody to send to, on whose place `countArrivals` ran. */
export interface Target extends Place {
  /** Bare addresses, of either family. */
  readonly addresses: readonly string[];
}

const TCP_PORT = 4080;
const UDP_PORT = 4090;
const WHO_PORT = 4070;
/** Seconds to wait for an answer that should not come. */
const PATIENCE = "0.5";
/** Seconds after which whatever was sent has arrived: only the kernel has a hand in it. */
const UNDERWAY = "0.2";

const MATCHES = {
  ping4: "-p icmp -m icmp --icmp-type echo-request",
  ping6: "-p ipv6-icmp -m icmp6 --icmpv6-type echo-request",
  tcp: `-p tcp -m tcp --dport ${String(TCP_PORT)}`,
  udp: `-p udp -m udp --dport ${String(UDP_PORT)}`,
};

/** Counts from now on what arrives at a place. */
export async function countArrivals(place: Place): Promise<void> {
  const table = (ping: string) =>
    `*raw\n${[ping, MATCHES.tcp, MATCHES.udp].map((match) => `-A PREROUTING ${match}`).join("\n")}\nCOMMIT\n`;
  await place.exec(["iptables-restore", "--noflush"], { input: table(MATCHES.ping4) });
  await place.exec(["ip6tables-restore", "--noflush"], { input: table(MATCHES.ping6) });
}

/** What has arrived at a place since this was asked last. */
async function arrived(place: Place): Promise<string[]> {
  const list = (program: string) => `${program} -t raw -nvx -L PREROUTING -Z`;
  const script = ["iptables", "ip6tables"].map(list).join(" && ");
  const { stdout } = await place.exec(["sh", "-c", script]);
  const packets = [...stdout.matchAll(/^ *(\d+) /gm)].map(([, count]) => Number(count));
  if (packets.length !== EVERYTHING.length) throw new Error(`cannot read what arrived: ${stdout}`);
  return EVERYTHING.filter((_, index) => packets[index] !== 0);
}

/** Sends everything to everybody at once. @returns what arrived, by the target's name */
export async function send(
  from: Place,
  targets: Readonly<Record<string, Target>>,
): Promise<Record<string, string[]>> {
  const entries = Object.entries(targets);
  await Promise.all(entries.map(([, target]) => arrived(target)));
  const commands = entries.flatMap(([, { addresses }]) => addresses.flatMap(sending));
  await from.exec(["sh", "-c", `${commands.join("\n")}\nwait`]);
  const results = entries.map(async ([name, target]) => [name, await arrived(target)] as const);
  return Object.fromEntries(await Promise.all(results));
}

function sending(address: string): string[] {
  const socat = address.includes(":") ? `6:[${address}]` : `4:${address}`;
  return [
    `ping -c1 -W${UNDERWAY} ${address} &`,
    `socat -u OPEN:/dev/null TCP${socat}:${String(TCP_PORT)},connect-timeout=${UNDERWAY} &`,
    `echo tsnet | socat -u STDIN UDP${socat}:${String(UDP_PORT)} &`,
  ];
}

/** Whether one echo request is answered: within 5 seconds, or not within half a second if it must not be. */
export async function pings(
  from: Place,
  address: string,
  { expected = true }: { expected?: boolean } = {},
): Promise<boolean> {
  const seconds = expected ? "5" : PATIENCE;
  return (await from.exec(["ping", "-nc1", `-W${seconds}`, address], { allowFailure: true })).code === 0;
}

/** Serves on a host for as long as it lives: it tells whoever connects what address it sees. */
export async function answerWhoAsks(place: Place): Promise<void> {
  for (const family of ["4", "6"]) {
    const listen = `TCP${family}-LISTEN:${String(WHO_PORT)},${family === "6" ? "ipv6only=1," : ""}fork,reuseaddr`;
    const serve = `socat '${listen}' 'SYSTEM:echo $SOCAT_PEERADDR' >/dev/null 2>&1 </dev/null &`;
    await place.exec(["sh", "-c", serve]);
  }
  await until(
    "the neighbour to answer",
    async () => (await seenAs(place, "127.0.0.1")) && seenAs(place, "::1"),
  );
}

/** The address that a host with `answerWhoAsks` sees; undefined if it cannot be reached. */
export async function seenAs(from: Place, address: string): Promise<string | undefined> {
  const socat = address.includes(":") ? `TCP6:[${address}]` : `TCP4:${address}`;
  const { stdout } = await from.exec(
    ["socat", "-u", `${socat}:${String(WHO_PORT)},connect-timeout=2`, "STDOUT"],
    { allowFailure: true },
  );
  const seen = stdout.trim();
  // socat writes every digit of an IPv6 address; URL has the short form.
  return seen === "" ? undefined : new URL(`http://${seen}`).hostname.replace(/^\[|\]$/g, "");
}
