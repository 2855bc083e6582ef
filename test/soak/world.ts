import { setTimeout as sleep } from "node:timers/promises";
import type Docker from "dockerode";
import type { LabHost } from "../lab/host.ts";

/** How often the engine's list is read until it has what its containers have. */
const LOOKS = 40;
const LOOK_AGAIN_MS = 50;

/** A network that may be made. */
export interface Plan {
  readonly name: string;
  readonly backend: "bridge" | "macvlan";
  /** Arguments of `docker network create`. */
  readonly args: readonly string[];
}

/** A container as the engine has it now. */
export interface Container {
  readonly name: string;
  /** Also its host name, which it serves on port 80. */
  readonly shortId: string;
  readonly runs: boolean;
  /** Its removal was cut off by the end of an engine: all that the next one does with it is to remove it. */
  readonly halfRemoved: boolean;
  /** Network it was made on, which must be there whenever the engine starts it, even if it is on others now. */
  readonly home: string;
  /** `--restart always`. */
  readonly always: boolean;
  /** Port of the host, if it publishes one. */
  readonly port: number | undefined;
  /** Bare addresses by the network's name; empty while it does not run. */
  readonly networks: Readonly<Record<string, { readonly v4: string; readonly v6: string }>>;
}

/** What there is, by the engine's word. */
export interface World {
  /** Names of tsnet's networks. */
  readonly networks: readonly string[];
  readonly containers: readonly Container[];
}

/** Labels that say what the list of containers does not. */
export const LABELS = { port: "soak.port", always: "soak.always" } as const;

/** Asks the engine what there is. */
export async function lookAt({ api }: LabHost): Promise<World> {
  const [networks, containers] = await Promise.all([api.listNetworks(), listed(api)]);
  return {
    networks: networks
      .filter(({ Driver }) => Driver.startsWith("tsnet"))
      .map(({ Name }) => Name)
      .sort(),
    containers: containers
      .map(({ Id, Names, State, Labels, HostConfig, NetworkSettings }) => ({
        name: Names[0]?.slice(1) ?? Id,
        shortId: Id.slice(0, 12),
        runs: State === "running",
        halfRemoved: State === "dead" || State === "removing",
        home: HostConfig.NetworkMode,
        always: LABELS.always in Labels,
        port: LABELS.port in Labels ? Number(Labels[LABELS.port]) : undefined,
        networks: Object.fromEntries(
          Object.entries(NetworkSettings.Networks).map(([name, { IPAddress, GlobalIPv6Address }]) => [
            name,
            { v4: IPAddress, v6: GlobalIPv6Address },
          ]),
        ),
      }))
      .sort((a, b) => a.name.localeCompare(b.name)),
  };
}

/** The list of containers: it is a moment behind, so that one which was just stopped is still told to run. */
async function listed(api: Docker, looks = LOOKS): Promise<Docker.ContainerInfo[]> {
  const containers = await api.listContainers({ all: true });
  const agree = await Promise.all(
    containers.map(async ({ Id, State }) => (State === "running") === (await isRunning(api, Id))),
  );
  if (looks === 1 || !agree.includes(false)) return containers;
  await sleep(LOOK_AGAIN_MS);
  return await listed(api, looks - 1);
}

/** What the container itself says; undefined if it is gone. */
async function isRunning(api: Docker, id: string): Promise<boolean | undefined> {
  return await api
    .getContainer(id)
    .inspect()
    .then(
      ({ State: { Running } }) => Running,
      () => undefined,
    );
}

/** What the engine says of a container that does not run: why its last start failed, or how it is. */
export async function lastWord({ api }: LabHost, name: string): Promise<string> {
  return await api
    .getContainer(name)
    .inspect()
    .then(({ State: { Error: error, Status } }) => error || Status, String);
}
