import { setTimeout as sleep } from "node:timers/promises";
import { PARENT } from "../e2e/lan.ts";
import type { Ground } from "./ground.ts";
import type { Random } from "./random.ts";

/** Something that goes wrong while operations are under way, and is over when it resolves. */
export interface Fault {
  readonly what: string;
  /** Containers that do not always restart have ended afterwards. */
  readonly endsContainers?: true;
  /** What tsnet may call degraded until all works again, and so many milliseconds longer. */
  readonly degrades?: {
    readonly owner: "network" | "endpoint";
    readonly why: RegExp;
    readonly forMs: number;
  };
  readonly happen: (ground: Ground, random: Random) => Promise<void>;
}

/**
 * The engine forgets without a word when it is killed. tsnet compares when either of them has started, and what is younger than
 * 20 s then is looked at again after as long.
 */
export const FORGOTTEN_MS = 45_000;
/**
 * Containers that ended with the engine and are not started again have their endpoints until then. The next engine opens
 * their sandboxes anew to clean up, and there a macvlan is missing whose MAC the kernel has not freed yet.
 */
const FORGETS: Fault["degrades"] = {
  owner: "endpoint",
  why: /^ip link (show \S+: ENODEV: the container's link is gone; restart the container|set \S+: EADDRINUSE)$/,
  forMs: FORGOTTEN_MS,
};
const UNPLUGS: Fault["degrades"] = {
  owner: "network",
  why: new RegExp(`^(host_access: )?parent ${PARENT} (is gone|is down|has no carrier|has no address in .*)$`),
  forMs: 0,
};

/** For how long a daemon is away at most: the engine repeats a request for 15 s. */
const AWAY_MS = 2000;

const TABLES = ["raw", "mangle", "nat", "filter"];
const FLUSH = ["iptables", "ip6tables"]
  .flatMap((program) => TABLES.map((table) => `${program} -w -t ${table} -F; ${program} -w -t ${table} -X`))
  .join("\n");

export const FAULTS: readonly Fault[] = [
  {
    what: "tsnet killed",
    happen: async ({ host }, random) => {
      await host.killTsnet();
      await sleep(random.below(AWAY_MS));
      await host.startTsnet();
    },
  },
  {
    what: "tsnet stopped",
    happen: async ({ host }, random) => {
      await host.stopTsnet();
      await sleep(random.below(AWAY_MS));
      await host.startTsnet();
    },
  },
  {
    what: "engine killed",
    endsContainers: true,
    degrades: FORGETS,
    happen: async ({ host }) => {
      await host.killEngine();
      await host.startEngine();
    },
  },
  {
    what: "engine and tsnet killed",
    endsContainers: true,
    degrades: FORGETS,
    happen: async ({ host }, random) => {
      await Promise.all([host.killEngine(), host.killTsnet()]);
      const engine = random.next() < 0.5 ? host.startEngine() : undefined;
      await sleep(engine ? random.below(AWAY_MS) : 0);
      await host.startTsnet();
      await (engine ?? host.startEngine());
    },
  },
  {
    what: "rules flushed",
    happen: async ({ host }) => {
      // A chain that tsnet has put back already is in use and stays.
      await host.exec(["sh", "-c", FLUSH], { allowFailure: true });
    },
  },
  {
    what: "link deleted",
    happen: async ({ host }, random) => {
      const links = await ownLinks(host, "ts[-mp]");
      const link = random.pick(links);
      if (link) await host.exec(["ip", "link", "delete", link], { allowFailure: true });
    },
  },
  {
    what: "parent unplugged",
    degrades: UNPLUGS,
    happen: async (ground, random) => {
      await ground.unplug();
      await sleep(random.below(AWAY_MS));
      await ground.plug();
    },
  },
];

/** Ends whatever runs in a container with that id, and fails if nothing does and containerd has nothing of it. */
const END = `pids=$(grep -ls "/$0" /proc/[0-9]*/cgroup | cut -d/ -f3)
  if [ -n "$pids" ]; then kill -9 $pids; else ls -d /run/docker/containerd/daemon/*.task/moby/"$0"; fi`;

/**
 * Removes containers that an engine was just starting when it was killed: the next one says that they do not run, or starts
 * them again and again, and can neither stop nor start them ("cannot delete running task", "already exists", "file exists").
 *
 * @param cutOff names of what the engine was asked to change; others are those of which something is left
 * @returns names of those removed
 */
export async function removeStrays(host: Ground["host"], cutOff: readonly string[]): Promise<string[]> {
  const containers = await host.api.listContainers({ all: true });
  const states = await Promise.all(containers.map(({ Id }) => host.api.getContainer(Id).inspect()));
  const strays: string[] = [];
  for (const { Id, Name, State } of states) {
    const name = Name.slice(1);
    if (State.Running && !cutOff.includes(name)) continue;
    const { code } = await host.exec(["sh", "-c", END, Id], { allowFailure: true });
    if (code === 0 || cutOff.includes(name)) strays.push(name);
  }
  if (strays.length > 0) await host.docker("rm", "-f", ...strays);
  return strays;
}

/** Links of tsnet's by a pattern of their names' beginning. */
async function ownLinks(host: Ground["host"], pattern: string): Promise<string[]> {
  const { stdout } = await host.exec(["ip", "-br", "link", "show"]);
  return [...stdout.matchAll(new RegExp(`^${pattern}[0-9a-f]{12}(?=[@ ])`, "gm"))].map(([name]) => name);
}
