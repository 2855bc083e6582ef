import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { LabError } from "../lab/command.ts";
import { type Place, Server, runIn } from "./place.ts";

/** Ports of the servers that run at every place where something is measured: iperf3's, */
export const IPERF_PORT = 5201;
/** sockperf's, */
const SOCKPERF_PORT = 5202;
/** and that of the one that takes connections and says nothing. */
export const ACCEPT_PORT = 5203;

/** Connections of one sample; a closed one stays in the tables of the machine for a while. */
const CONNECTIONS = 5000;

const CONNECTIONS_SCRIPT = fileURLToPath(new URL("connections.pl", import.meta.url));

/** Starts everything at a place that the measurements below talk to, and waits until it listens. */
export async function serve(place: Place): Promise<Server[]> {
  const servers = [
    new Server(place, ["iperf3", "--server", "--port", String(IPERF_PORT)]),
    new Server(place, ["sockperf", "server", "--tcp", "-i", "0.0.0.0", "-p", String(SOCKPERF_PORT)]),
    new Server(place, ["perl", CONNECTIONS_SCRIPT, "accept", String(ACCEPT_PORT)]),
  ];
  try {
    await listening(place);
    return servers;
  } catch (error) {
    await stopAll(servers);
    throw error;
  }
}

async function listening(place: Place): Promise<void> {
  const deadline = Date.now() + 10_000;
  for (;;) {
    const sockets = await runIn(place, ["ss", "-Htnl"]);
    if ([IPERF_PORT, SOCKPERF_PORT, ACCEPT_PORT].every((port) => sockets.includes(`:${String(port)} `)))
      return;
    if (Date.now() > deadline) throw new LabError(`servers do not listen:\n${sockets}`);
    await sleep(50);
  }
}

/** Ends servers. */
export async function stopAll(servers: readonly Server[]): Promise<void> {
  for (const server of servers) await server.stop();
}

/** How a stream is sent. */
export interface Stream {
  readonly from: Place;
  /** Address of the place where the server is; the connection always goes there. */
  readonly to: string;
  /** Another port than the server's own where it is published. */
  readonly port?: number;
  readonly seconds: number;
  readonly streams?: number;
  /** The server sends. */
  readonly reverse?: boolean;
}

/** How often a stream is tried: a server that has just served one may still be busy with its end. */
const TRIES = 3;

/**
 * Bytes that arrived over TCP, in Gbit/s.
 *
 * @throws {LabError} with what iperf3 says
 */
export async function throughput({ from, to, port, seconds, streams, reverse }: Stream): Promise<number> {
  const command = [
    ...["iperf3", "--json", "--client", to, "--port", String(port ?? IPERF_PORT)],
    ...["--time", String(seconds), "--parallel", String(streams ?? 1)],
    ...(reverse === true ? ["--reverse"] : []),
  ];
  let complaint = "";
  for (let attempt = 0; attempt < TRIES; attempt += 1) {
    const report = await runIn(from, command, { allowFailure: true });
    const { end, error } = JSON.parse(report) as IperfReport;
    if (end?.sum_received !== undefined) return end.sum_received.bits_per_second / 1e9;
    complaint = error ?? report;
    await sleep(200);
  }
  throw new LabError(`iperf3 to ${to}: ${complaint}`);
}

/** What iperf3 says with --json, as far as it matters here; a failed run has an error and no sums. */
interface IperfReport {
  readonly end?: { readonly sum_received?: { readonly bits_per_second: number } };
  readonly error?: string;
}

/** Median time from sending a small TCP segment to its echo, in microseconds. */
export async function roundTrip({ from, to, seconds }: Stream): Promise<number> {
  const report = await runIn(from, [
    ...["sockperf", "ping-pong", "--tcp", "--full-rtt", "-i", to],
    ...["-p", String(SOCKPERF_PORT), "-t", String(seconds)],
  ]);
  const found = /percentile 50\.000 =\s*([\d.]+)/.exec(report)?.[1];
  if (found === undefined) throw new LabError(`sockperf says no median: ${report}`);
  return Number(found);
}

/** TCP connections set up in a second, one after the other. */
export async function connectionRate({ from, to, port }: Omit<Stream, "seconds">): Promise<number> {
  const target = [to, String(port ?? ACCEPT_PORT), String(CONNECTIONS)];
  return Number(await runIn(from, ["perl", CONNECTIONS_SCRIPT, "connect", ...target]));
}
