import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { BOX } from "../lab/image.ts";
import { agree } from "./agreement.ts";
import { allAtOnce, onEachEngine } from "./each-engine.ts";
import { nextAnswer } from "./next-answer.ts";
import { pings } from "./packets.ts";
import { type Site, subnets } from "./site.ts";
import { mustBe, onHost } from "./snapshot.ts";

type Backend = "bridge" | "macvlan";

/** What a user asks for, by what it is called; `xx` is there or is made. */
interface Operation {
  readonly prepare: (site: Site, backend: Backend) => Promise<unknown>;
  readonly args: (backend: Backend) => readonly string[];
  /** Requests of the engine's, after whose answers tsnet is killed in turn, and before the first as well. */
  readonly requests: readonly string[];
}

const NOTHING = () => Promise.resolve();

const OPERATIONS: readonly Operation[] = [
  { prepare: NOTHING, args: create, requests: ["CreateNetwork"] },
  { prepare: NOTHING, args: run, requests: ["CreateEndpoint", "Join", "ProgramExternalConnectivity"] },
  {
    prepare: (site) => site.docker("run", "-d", "--name", "xx", BOX),
    args: (backend) => ["network", "connect", first(backend), "xx"],
    requests: ["CreateEndpoint", "Join"],
  },
  {
    prepare: start,
    args: (backend) => ["network", "disconnect", first(backend), "xx"],
    requests: ["Leave", "DeleteEndpoint"],
  },
  {
    prepare: start,
    args: () => ["rm", "-f", "xx"],
    requests: ["RevokeExternalConnectivity", "Leave", "DeleteEndpoint"],
  },
  {
    prepare: (site, backend) => site.docker(...create(backend)),
    args: () => ["network", "rm", "xx"],
    requests: ["DeleteNetwork"],
  },
];

/** The engine has asked by then, and found nobody. */
const ASKED_IN_VAIN_MS = 300;

/** Most of it is waiting: the engine tries again after one second, two, four. */
const endsAlike = allAtOnce(async (site) => {
  const before = await onHost(site);
  const { v4, v6, ip, ip6 } = subnets();
  await site.network(first("bridge"), "--ipv6", "--subnet", v4, "--subnet", v6);
  await site.network(first("macvlan"), "-o", "backend=macvlan");
  await site.run("stays", first("bridge"), "--ip", ip(10), "--ip6", ip6(10));
  let moment = 0;
  for (const operation of OPERATIONS)
    for (const request of [undefined, ...operation.requests]) {
      // Each operation has its moments on both in turn.
      const backend = (moment += 1) % 2 === 0 ? "bridge" : "macvlan";
      await killedIn(site, operation, backend, request);
      await remove(site);
    }

  await agree(site);
  const other = await site.run("other", first("bridge"));
  for (const address of [ip(10), ip6(10), ...Object.values(site.neighbourAddress)])
    assert.equal(await pings(other, address), true, address);
  await site.clear();
  await mustBe(before, site);
});

onEachEngine("tsnet that is killed", (site) => {
  it("before and after any request of an operation: records and links are what the engine says there is", async function () {
    this.timeout(600_000);
    await endsAlike(site);
  });
});

/** @param request after whose answer; absent: before the first, which finds nobody */
async function killedIn(
  site: Site,
  { prepare, args }: Operation,
  backend: Backend,
  request: string | undefined,
): Promise<void> {
  await prepare(site, backend);
  const answered = request === undefined ? undefined : await nextAnswer(site, request);
  if (!answered) await site.host.killTsnet();
  const asked = site.exec(["docker", ...args(backend)], { allowFailure: true });
  if (answered) {
    await answered();
    await site.host.killTsnet();
  } else await sleep(ASKED_IN_VAIN_MS);
  await site.host.startTsnet();
  await asked;
}

/** Whatever came of it, the engine lets it be removed. */
async function remove(site: Site): Promise<void> {
  await site.exec(["docker", "rm", "-f", "xx"], { allowFailure: true });
  await site.exec(["docker", "network", "rm", "xx"], { allowFailure: true });
}

async function start(site: Site, backend: Backend): Promise<void> {
  await site.docker(...run(backend));
}

function create(backend: Backend): readonly string[] {
  return ["network", "create", "-d", "tsnet", "-o", `backend=${backend}`, "xx"];
}

function run(backend: Backend): readonly string[] {
  const published = backend === "bridge" ? ["-p", "8090:80"] : [];
  return ["run", "-d", "--name", "xx", "--network", first(backend), ...published, BOX];
}

function first(backend: Backend): string {
  return `first-${backend}`;
}
