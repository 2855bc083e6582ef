import { install } from "../lab/debian.ts";
import type { EngineLine } from "../lab/engines.ts";
import { LabHost } from "../lab/host.ts";
import { Underlay } from "../lab/underlay.ts";
import { answerWhoAsks, countArrivals } from "./packets.ts";

let underlay: Promise<Underlay> | undefined;
let neighbour: Promise<LabHost> | undefined;
const hosts = new Map<EngineLine, Promise<LabHost>>();

/**
 * The host with this engine and tsnet. It is started when it is first asked for, serves every file of the
 * run and ends with it.
 *
 * @throws {EngineUnavailableError} where the engine cannot be fetched
 */
export async function hostWith(line: EngineLine): Promise<LabHost> {
  const name = `e${line.replace(".", "-")}`;
  let host = hosts.get(line);
  if (!host) {
    host = wire().then((underlay) => LabHost.start({ name, engine: line, underlay, tsnet: true }));
    hosts.set(line, host);
  }
  return await host;
}

/** The lines whose hosts were asked for. */
export function started(): EngineLine[] {
  return [...hosts.keys()];
}

/** A host without engine on the same wire; it counts arrivals and tells who asks whose address it sees. */
export async function theNeighbour(): Promise<LabHost> {
  neighbour ??= wire().then(async (underlay) => {
    await install("iputils-ping", "socat");
    const host = await LabHost.start({ name: "e-near", underlay });
    await answerWhoAsks(host);
    await countArrivals(host);
    return host;
  });
  return await neighbour;
}

async function wire(): Promise<Underlay> {
  return await (underlay ??= Underlay.start({ name: "e2e" }));
}

// At the root, since the files share the machines.
after(async function () {
  this.timeout(120_000);
  const ends = [...hosts.values(), neighbour, underlay].map(async (starting) => {
    // What could not be started has left nothing, and the hook that asked for it has said why.
    const machine = await starting?.catch(() => undefined);
    await machine?.stop();
  });
  await Promise.all(ends);
});
