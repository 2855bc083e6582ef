import { randomInt } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { Command, InvalidArgumentError } from "commander";
import { type EngineLine, parseEngineLine } from "../lab/engines.ts";
import type { LabHost } from "../lab/host.ts";
import { Ground } from "./ground.ts";
import { soak } from "./soak.ts";

const MINUTE_MS = 60_000;
const SEEDS = 2 ** 32;

/** The command line. */
interface Options {
  readonly minutes: number;
  readonly seed?: number;
  readonly engine: EngineLine;
  readonly log?: string;
}

const program = new Command("npm run soak --")
  .description(
    "Random operations on a real engine, with daemons killed, rules flushed and links deleted among them, on a host of the lab. All must work after each, and the host must be as it was in the end.",
  )
  .option("--minutes <n>", "how long, without the end", parseCount, 30)
  .option("--seed <n>", "repeats what another run drew (default: a new one)", parseCount)
  .option("--engine <line>", "20.10, 26.1 or 28.5 (20, 26, 28)", parseEngineLine, "28.5")
  .option("--log <file>", "where tsnet's and the engine's log, and the containers' links, go if it fails")
  .action(main);

async function main({ minutes, seed = randomInt(1, SEEDS), engine, log }: Options): Promise<void> {
  print(`engine ${engine}, ${String(minutes)} minutes, seed ${String(seed)}`);
  const ground = await Ground.start(engine);
  const { host } = ground;
  try {
    await soak(ground, { seed, forMs: minutes * MINUTE_MS, progress: print }).catch(
      async (error: unknown) => {
        if (log) {
          // An engine that does not answer must not cost the logs.
          const parts = [host.tsnetLog(), host.engineLog(), linksInside(host).catch(String)];
          await writeFile(log, (await Promise.all(parts)).join("\n"));
        }
        throw error;
      },
    );
    print("the host is as it was");
  } finally {
    await ground.stop();
  }
}

/** What `ip link` says in each container that runs. */
async function linksInside(host: LabHost): Promise<string> {
  const containers = await host.api.listContainers();
  const links = containers.map(async ({ Id, Names }) => {
    const { stdout } = await host.inContainer(Id, ["ip", "-d", "link"], { allowFailure: true });
    return `${Names.join(" ")}\n${stdout}`;
  });
  return (await Promise.all(links)).join("\n");
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

function parseCount(text: string): number {
  if (!/^[1-9]\d*$/.test(text)) throw new InvalidArgumentError("a whole number, 1 or more");
  return Number(text);
}

try {
  await program.parseAsync();
} catch (error) {
  process.stderr.write(`soak: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
