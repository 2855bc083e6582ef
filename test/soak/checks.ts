import type { Place } from "../e2e/site.ts";
import { LabError } from "../lab/command.ts";
import type { LabHost } from "../lab/host.ts";
import type { Ground } from "./ground.ts";
import type { Container, World } from "./world.ts";

/** A shell command that must succeed somewhere. */
interface Probe {
  readonly what: string;
  readonly command: string;
}

/** Seconds to wait for an answer that should come, and one that should not. */
const PATIENCE = { expected: 5, unexpected: 0.5 } as const;

/**
 * Whether the world is as it should be: containers of a network reach each other and what is outside, published ports
 * answer, and what must not be reached is not.
 *
 * @returns what is wrong
 */
export async function complaints(ground: Ground, world: World): Promise<string[]> {
  const { host, neighbour } = ground;
  const running = world.containers.filter(({ runs }) => runs);
  const lost = running
    .flatMap(({ name, networks }) =>
      Object.entries(networks).map(([network, at]) => ({ name, network, ...at })),
    )
    .filter(({ v4, v6 }) => !v4 || !v6);
  const all = await Promise.all([
    ...running.map(async (container) => {
      const place: Place = { exec: (argv, options) => host.inContainer(container.name, argv, options) };
      return await failing(container.name, place, fromContainer(ground, container, running)).catch(hasEnded);
    }),
    failing("the host", { exec: host.exec.bind(host) }, fromHost(running)),
    failing("the neighbour", { exec: neighbour.exec.bind(neighbour) }, fromNeighbour(host, world.containers)),
  ]);
  return [...lost.map(({ name, network }) => `${name} has no address on ${network}`), ...all.flat()];
}

function fromContainer(ground: Ground, container: Container, running: readonly Container[]): Probe[] {
  const { networks, name } = container;
  const neighbours = Object.keys(networks).flatMap((network) => {
    const members = running.filter((other) => network in other.networks);
    const next = members[(members.findIndex((other) => other.name === name) + 1) % members.length];
    const address = next?.networks[network];
    return next && address && next.name !== name ? pings(`${next.name} on ${network}`, address) : [];
  });
  const outside = [
    ...(isOnBridge(container) && ground.neighbour.address
      ? pings("the neighbour", ground.neighbour.address)
      : []),
    ...("m1" in networks ? pings("the LAN's client", ground.lan.client) : []),
    ...("m1" in networks && !isOnBridge(container) ? pings("its host", ground.lanAddress) : []),
  ];
  return [...neighbours, ...outside, ...isolated(container, running)];
}

/** One container of a bridge that is not one of its own: whatever else it is on may lead there. */
function isolated(container: Container, running: readonly Container[]): Probe[] {
  const only = ({ networks }: Container) =>
    Object.keys(networks).every((network) => network.startsWith("br"));
  const other = running.find(
    (candidate) =>
      only(candidate) && !Object.keys(candidate.networks).some((network) => network in container.networks),
  );
  const address = Object.values(other?.networks ?? {})[0];
  if (!other || !address || !only(container)) return [];
  return [
    {
      what: `reaches ${other.name}, which is on another network`,
      command: `! ping -nc1 -W${String(PATIENCE.unexpected)} ${address.v4}`,
    },
  ];
}

function fromHost(running: readonly Container[]): Probe[] {
  return running.flatMap(({ name, networks }) =>
    Object.entries(networks).flatMap(([network, address]) =>
      network === "m2" ? [] : pings(`${name} on ${network}`, address),
    ),
  );
}

function fromNeighbour({ address }: LabHost, containers: readonly Container[]): Probe[] {
  return containers.flatMap((container) => {
    const { name, port, shortId, runs } = container;
    if (!port || !address) return [];
    return [address.v4, `[${address.v6}]`].map((at) => {
      const curl = `curl -gs --max-time ${String(PATIENCE.expected)} http://${at}:${String(port)}/etc/hostname`;
      // The engine has answered before the container's server listens; what tsnet does not translate is not refused.
      const answered = `test "$(${curl} --retry 5 --retry-delay 1 --retry-connrefused)" = ${shortId}`;
      // Once may be chance: the kernel remembers a connection for two minutes, and translates one from the same
      // port as that was, to whoever has the address by now.
      return runs && isOnBridge(container)
        ? {
            what: `gets no answer from ${name} at ${at}:${String(port)}`,
            command: `${answered} || ${answered}`,
          }
        : { what: `is answered for ${name} at ${at}:${String(port)}`, command: `! ${curl} || ! ${curl}` };
    });
  });
}

function isOnBridge({ networks }: Container): boolean {
  return Object.keys(networks).some((network) => network.startsWith("br"));
}

function pings(whom: string, { v4, v6 }: { readonly v4: string; readonly v6: string }): Probe[] {
  return [v4, v6].map((address) => ({
    what: `does not reach ${whom} at ${address}`,
    command: `ping -nc1 -W${String(PATIENCE.expected)} ${address}`,
  }));
}

/** It may have ended since it was seen to run, as long as something is wrong. */
function hasEnded(error: unknown): string[] {
  if (error instanceof LabError) return [error.message];
  throw error;
}

/** Runs all at once. @returns what failed */
async function failing(name: string, { exec }: Place, probes: readonly Probe[]): Promise<string[]> {
  if (probes.length === 0) return [];
  const script = probes.map(
    ({ command }, index) => `{ { ${command}; } >/dev/null 2>&1 || echo ${String(index)}; } &`,
  );
  const { stdout } = await exec(["sh", "-c", `${script.join("\n")}\nwait`]);
  return stdout.split("\n").flatMap((index) => {
    const probe = index === "" ? undefined : probes[Number(index)];
    return probe ? [`${name} ${probe.what}`] : [];
  });
}
