import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { isDeepStrictEqual } from "node:util";
import type { NetworkInspectInfo } from "dockerode";
import { bridgeOf, hostEndOf, interfaces, privateParentOf } from "./interfaces.ts";
import type { Site } from "./site.ts";
import { recordsOf } from "./snapshot.ts";

/** It is compared when an engine has started, and again when nothing is younger than 20 s. */
const CAUGHT_UP_MS = 30_000;
const LOOK_AGAIN_MS = 500;

/** Waits until records and links of tsnet's are those of the engine's networks and endpoints. */
export async function agree(site: Site): Promise<void> {
  const deadline = Date.now() + CAUGHT_UP_MS;
  for (;;) {
    const [said, found] = [await engineSays(site), await onTheHost(site)];
    if (isDeepStrictEqual(found, said)) return;
    if (Date.now() > deadline) assert.deepEqual(found, said);
    await sleep(LOOK_AGAIN_MS);
  }
}

async function engineSays({ host: { api } }: Site): Promise<object> {
  const all = (await api.listNetworks()).filter(({ Driver }) => Driver === "tsnet");
  const networks = await Promise.all(all.map(({ Id }) => api.getNetwork(Id).inspect()));
  const isMacvlan = ({ Options }: NetworkInspectInfo) => Options?.["backend"] === "macvlan";
  const endpoints = networks.flatMap((network) =>
    Object.values(network.Containers ?? {}).map(({ EndpointID }) => ({ network, id: EndpointID })),
  );
  return {
    records: [
      ...networks.map(({ Id }) => `network/${Id}`),
      ...endpoints.map(({ network, id }) => `endpoint/${network.Id}/${id}`),
    ].sort(),
    links: [
      ...networks.map((network) => (isMacvlan(network) ? privateParentOf(network.Id) : bridgeOf(network.Id))),
      // A macvlan is in its container, and nowhere else.
      ...endpoints.filter(({ network }) => !isMacvlan(network)).map(({ id }) => hostEndOf(id)),
    ].sort(),
  };
}

async function onTheHost(site: Site): Promise<object> {
  const links = Object.keys(await interfaces(site)).filter((name) => /^ts[-hcmp]/.test(name));
  return { records: recordsOf(site), links: links.sort() };
}
