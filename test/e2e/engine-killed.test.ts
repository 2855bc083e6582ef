import assert from "node:assert/strict";
import type { EngineLine } from "../lab/engines.ts";
import { BOX } from "../lab/image.ts";
import { agree } from "./agreement.ts";
import { allAtOnce, onEachEngine } from "./each-engine.ts";
import { nextAnswer } from "./next-answer.ts";
import { pings } from "./packets.ts";
import { type Site, subnets } from "./site.ts";
import { mustBe, onHost } from "./snapshot.ts";

type Backend = "bridge" | "macvlan";

/** Something that an engine asks tsnet for, step by step. */
interface Operation {
  /** Networks are made or removed. */
  readonly changesNetworks?: true;
  /** Arguments of `docker`; the number differs each time. */
  readonly args: (backend: Backend, number: string) => readonly string[];
  /** What must be there for it. */
  readonly prepare?: (site: Site, backend: Backend, number: string) => Promise<unknown>;
}

const OPERATIONS = {
  "network create": {
    changesNetworks: true,
    args: (backend, number) => ["network", "create", ...kind(backend), `fresh-${number}`],
  },
  run: {
    args: (backend, number) => [...run(backend), "--name", `run-${number}`, BOX],
  },
  connect: {
    args: (backend) => ["network", "connect", `second-${backend}`, "stays"],
    prepare: (site, backend) =>
      site.docker("network", "disconnect", `second-${backend}`, "stays").catch(() => "not on it"),
  },
  rm: {
    args: (_, number) => ["rm", "-f", `goes-${number}`],
    prepare: (site, backend, number) => site.docker(...run(backend), "--name", `goes-${number}`, BOX),
  },
  "network rm": {
    changesNetworks: true,
    args: (_, number) => ["network", "rm", `gone-${number}`],
    prepare: (site, backend, number) => site.docker("network", "create", ...kind(backend), `gone-${number}`),
  },
} as const satisfies Record<string, Operation>;

/** After the answer to which request the engine alone is killed, and engine and tsnet, and on whose network. */
const MOMENTS: readonly (readonly [keyof typeof OPERATIONS, string, { engine?: Backend; both?: Backend }])[] =
  [
    ["network create", "CreateNetwork", { engine: "bridge", both: "macvlan" }],
    ["run", "CreateEndpoint", { engine: "macvlan", both: "bridge" }],
    ["run", "Join", { engine: "bridge", both: "macvlan" }],
    ["run", "ProgramExternalConnectivity", { both: "bridge" }],
    ["connect", "CreateEndpoint", { engine: "bridge" }],
    ["connect", "Join", { engine: "macvlan", both: "bridge" }],
    ["rm", "Leave", { engine: "bridge", both: "macvlan" }],
    ["rm", "DeleteEndpoint", { engine: "macvlan", both: "bridge" }],
    ["network rm", "DeleteNetwork", { engine: "bridge", both: "macvlan" }],
  ];

/**
 * This one must not be killed while it writes a network: it may find one without pools when it starts again, and then
 * panics, at every start from then on (libnetwork, controller.reservePools: index out of range). It is killed once
 * the user has its answer instead.
 */
const BREAKS_NETWORKS: EngineLine = "20.10";

/** Most of it is waiting, for engines that start. */
const endsAlike = allAtOnce(async (site) => {
  const before = await onHost(site);
  const { v4, v6, ip, ip6 } = subnets();
  await site.network("first-bridge", "--ipv6", "--subnet", v4, "--subnet", v6);
  await site.network("second-bridge");
  for (const name of ["first-macvlan", "second-macvlan"]) await site.network(name, "-o", "backend=macvlan");
  const at = ["--ip", ip(10), "--ip6", ip6(10)];
  await site.run("stays", "first-bridge", "--restart", "always", ...at);
  let number = 10;
  for (const [name, method, victims] of MOMENTS) {
    const operation: Operation = OPERATIONS[name];
    for (const who of ["engine", "both"] as const) {
      const backend = victims[who];
      if (!backend) continue;
      await operation.prepare?.(site, backend, String(number));
      const answered = await nextAnswer(site, method);
      const dying = site.exec(["docker", ...operation.args(backend, String(number))], { allowFailure: true });
      await answered();
      if (operation.changesNetworks && site.line === BREAKS_NETWORKS) await dying;
      await Promise.all([site.host.killEngine(), ...(who === "both" ? [site.host.killTsnet()] : [])]);
      await dying;
      if (who === "both") await site.host.startTsnet();
      await site.host.startEngine();
      number += 1;
    }
  }

  await agree(site);
  const other = await site.run("other", "first-bridge");
  for (const address of [ip(10), ip6(10), ...Object.values(site.neighbourAddress)])
    assert.equal(await pings(other, address), true, address);
  await site.clear();
  await mustBe(before, site);
});

onEachEngine("an engine that is killed, or both,", (site) => {
  const but = site.line === BREAKS_NETWORKS ? " (but of one on a network only once that is done)" : "";
  it(`after any request of an operation${but}: records and links are what the engine says there is`, async function () {
    this.timeout(600_000);
    await endsAlike(site);
  });
});

function kind(backend: Backend): readonly string[] {
  return ["-d", "tsnet", "-o", `backend=${backend}`];
}

function run(backend: Backend): readonly string[] {
  return ["run", "-d", "--network", `first-${backend}`, ...(backend === "bridge" ? ["-p", "80"] : [])];
}
