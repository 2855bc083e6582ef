import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { isDeepStrictEqual } from "node:util";
import type { EngineLine } from "../lab/engines.ts";
import { allAtOnce, onEachEngine } from "./each-engine.ts";
import { bridgeOf, hostEndOf, interfaces } from "./interfaces.ts";
import { pings } from "./packets.ts";
import { type Site, subnets } from "./site.ts";
import { mustBe, onHost, recordsOf } from "./snapshot.ts";

/** What is under way when a daemon is killed. */
interface Operation {
  /** Networks are made or removed. */
  readonly changesNetworks?: true;
  /** Arguments of `docker`; the number differs each time. */
  readonly args: (number: string) => readonly string[];
  /** What must be there for it. */
  readonly prepare?: (site: Site, number: string) => Promise<unknown>;
  /** After how many milliseconds the engine alone is killed, and engine and tsnet: the requests to tsnet are about there. */
  readonly afterMs: { readonly engine: number; readonly both: number };
}

const OPERATIONS: Readonly<Record<string, Operation>> = {
  "network create": {
    changesNetworks: true,
    args: (number) => ["network", "create", "-d", "tsnet", `fresh-${number}`],
    afterMs: { engine: 60, both: 90 },
  },
  run: {
    args: (number) => [...RUN, "--name", `run-${number}`, "-p", `82${number}:80`, "tsnet/box"],
    afterMs: { engine: 350, both: 200 },
  },
  connect: {
    args: () => ["network", "connect", "green", "stays"],
    prepare: (site) => site.docker("network", "disconnect", "green", "stays").catch(() => "not on it"),
    afterMs: { engine: 80, both: 110 },
  },
  rm: {
    args: (number) => ["rm", "-f", `goes-${number}`],
    prepare: (site, number) => site.docker(...RUN, "--name", `goes-${number}`, "tsnet/box"),
    afterMs: { engine: 150, both: 100 },
  },
  "network rm": {
    changesNetworks: true,
    args: (number) => ["network", "rm", `gone-${number}`],
    prepare: (site, number) => site.network(`gone-${number}`),
    afterMs: { engine: 60, both: 90 },
  },
};
const RUN = ["run", "-d", "--network", "blue"];

/** Everything is compared with the engine once a minute, but what is younger than 20 s. */
const CAUGHT_UP_MS = 90_000;
const LOOK_AGAIN_MS = 500;

/**
 * This one must not be killed while it writes a network: it may find one without pools when it starts again, and then
 * panics, at every start from then on (libnetwork, controller.reservePools: index out of range).
 */
const BREAKS_NETWORKS: EngineLine = "20.10";

/** Its longest part is the wait for the comparison. */
const endsAlike = allAtOnce(async (site) => {
  const before = await onHost(site);
  const { v4, v6, ip, ip6 } = subnets();
  await site.network("blue", "--ipv6", "--subnet", v4, "--subnet", v6);
  await site.network("green");
  const at = ["--ip", ip(10), "--ip6", ip6(10)];
  await site.run("stays", "blue", "--restart", "always", ...at);
  let number = 10;
  const operations = Object.values(OPERATIONS).filter(
    ({ changesNetworks }) => !changesNetworks || site.line !== BREAKS_NETWORKS,
  );
  for (const { args, prepare, afterMs } of operations)
    for (const who of ["engine", "both"] as const) {
      await prepare?.(site, String(number));
      const dying = site.exec(["docker", ...args(String(number))], { allowFailure: true });
      await sleep(afterMs[who]);
      await Promise.all([site.host.killEngine(), ...(who === "both" ? [site.host.killTsnet()] : [])]);
      await dying;
      if (who === "both") await site.host.startTsnet();
      await site.host.startEngine();
      number += 1;
    }

  await agree(site);
  const other = await site.run("other", "blue");
  for (const address of [ip(10), ip6(10), ...Object.values(site.neighbourAddress)])
    assert.equal(await pings(other, address), true, address);
  await site.clear();
  await mustBe(before, site);
});

onEachEngine("an engine that is killed, or both,", (site) => {
  it("while something is under way, and records and links are what the engine says there is", async function () {
    this.timeout(600_000);
    await endsAlike(site);
  });
});

/** Waits until records and links of tsnet's are those of the engine's networks and endpoints. */
async function agree(site: Site): Promise<void> {
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
  const endpoints = networks.flatMap(({ Id, Containers = {} }) =>
    Object.values(Containers).map(({ EndpointID }) => ({ network: Id, id: EndpointID })),
  );
  return {
    records: [
      ...networks.map(({ Id }) => `network/${Id}`),
      ...endpoints.map(({ network, id }) => `endpoint/${network}/${id}`),
    ].sort(),
    links: [...networks.map(({ Id }) => bridgeOf(Id)), ...endpoints.map(({ id }) => hostEndOf(id))].sort(),
  };
}

async function onTheHost(site: Site): Promise<object> {
  const links = Object.keys(await interfaces(site)).filter((name) => /^ts[-hc]/.test(name));
  return { records: recordsOf(site), links: links.sort() };
}
