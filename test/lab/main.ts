import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { Command, InvalidArgumentError } from "commander";
import { LabError, run } from "./command.ts";
import { type EngineLine, parseEngineLine } from "./engines.ts";
import { LabHost, TSNET_MAIN } from "./host.ts";
import { boxTar, importBox } from "./image.ts";
import { recorded, sweep } from "./leftovers.ts";
import { Namespace } from "./namespace.ts";
import { Underlay } from "./underlay.ts";

/** Options of `up`. */
interface UpOptions {
  readonly hosts: number;
  readonly engine: readonly EngineLine[];
  readonly tsnet: boolean;
}

const program = new Command("scripts/lab")
  .description(
    "Docker hosts of your own on this machine, each in namespaces, joined by a wire that leads nowhere else.",
  )
  .enablePositionalOptions();

program
  .command("up")
  .description(
    "start hosts h1, h2, ... and leave them running; each has tsnet if it is built (npm run build)",
  )
  .option("--hosts <n>", "how many", parseCount, 2)
  .option(
    "--engine <line>",
    "engine of every host: 20.10, 26.1 or 28.5 (20, 26, 28); or one for each, comma-separated",
    parseEngines,
    ["28.5"],
  )
  .option("--no-tsnet", "hosts with an engine only")
  .action(up);
program
  .command("exec")
  .description("run a command on a host, e.g. scripts/lab exec h1 -- docker ps")
  .argument("<host>")
  .argument("<command...>")
  .passThroughOptions()
  .action(enter);
program.command("status").description("show the hosts").action(status);
program
  .command("down")
  .description("end the hosts, and remove what tests that were killed have left")
  .action(() => end({ detached: true }));
program
  .command("sweep")
  .description("only remove what tests that were killed have left")
  .action(() => end({ detached: false }));
program
  .command("image")
  .description("load the hosts' image, tsnet/box, into the engine of the machine itself")
  .action(image);
program.addHelpText(
  "after",
  `
Example:
  scripts/lab up --engine 20,28
  scripts/lab exec h1 -- docker network create -d tsnet blue
  scripts/lab exec h1 -- docker run -d --name web --network blue tsnet/box
  scripts/lab exec h2 -- bash
  scripts/lab down`,
);

async function up({ hosts, engine, tsnet }: UpOptions): Promise<void> {
  if ((await attached()).length > 0) {
    process.stdout.write("The lab is up already (scripts/lab down ends it).\n\n");
    await status();
    return;
  }
  const lines = engine.length === 1 ? Array<EngineLine>(hosts).fill(engine[0] ?? "28.5") : engine;
  const built = existsSync(TSNET_MAIN);
  if (tsnet && !built) process.stdout.write("dist/ is not built (npm run build): hosts without tsnet.\n");
  await sweep({ detached: true });
  const started = Date.now();
  try {
    const underlay = await Underlay.start({ detached: true });
    const starts = lines.map(async (line, index) => {
      const name = `h${String(index + 1)}`;
      await LabHost.start({ name, engine: line, underlay, tsnet: tsnet && built, detached: true });
      process.stdout.write(`${name} is up\n`);
    });
    // All have come to an end before a failure is cleaned up after.
    await Promise.allSettled(starts);
    await Promise.all(starts);
  } catch (error) {
    await sweep({ detached: true });
    throw error;
  }
  process.stdout.write(
    `${String(lines.length)} hosts in ${String(Math.round((Date.now() - started) / 1000))} s\n\n`,
  );
  await status();
}

async function status(): Promise<void> {
  const hosts = await attached();
  if (hosts.length === 0) {
    process.stdout.write("No hosts. Start some: scripts/lab up\n");
    return;
  }
  const rows = await Promise.all(hosts.map(row));
  print([["HOST", "ENGINE", "TSNET", "CONTAINERS", "IPV4", "IPV6", "LOGS"], ...rows]);
  const first = hosts[0]?.name ?? "h1";
  const driver = rows[0]?.[2] === "runs" ? "-d tsnet " : "";
  process.stdout.write(
    [
      "\nNext:",
      `scripts/lab exec ${first} -- docker network create ${driver}blue`,
      `scripts/lab exec ${first} -- docker run -d --name web --network blue tsnet/box`,
      `scripts/lab exec ${first} -- docker run --rm --network blue tsnet/box ping -c 3 web`,
      `scripts/lab exec ${first} -- bash`,
      "scripts/lab down\n",
    ].join("\n  "),
  );
}

async function row(host: Namespace): Promise<string[]> {
  const { engine = "", v4 = "", v6 = "" } = host.facts;
  const list = await host.exec(["docker", "ps", "-q"], { allowFailure: true, timeoutMs: 10_000 });
  const tsnet = await host.exec(["sh", "-c", 'kill -0 "$(cat "$0")"', join(host.dir, "tsnet.pid")], {
    allowFailure: true,
  });
  const containers = list.code === 0 ? String(list.stdout.split("\n").length - 1) : "no answer";
  return [host.name, engine, tsnet.code === 0 ? "runs" : "no", containers, v4, v6, `${host.dir}/*.log`];
}

async function enter(name: string, argv: readonly string[]): Promise<void> {
  const hosts = await attached();
  const host = hosts.find((candidate) => candidate.name === name);
  if (host === undefined) {
    const names = hosts.map((candidate) => candidate.name).join(", ");
    throw new LabError(
      `no host ${name}; ${names === "" ? "start some: scripts/lab up" : `there are ${names}`}`,
    );
  }
  const [command = "", ...args] = host.enter(argv[0] === "--" ? argv.slice(1) : argv);
  const child = spawn(command, args, { stdio: "inherit", env: { ...process.env, ...host.env } });
  // The terminal sends its signals to the command as well; it decides.
  process.on("SIGINT", () => undefined);
  process.exitCode = await new Promise<number>((resolve, reject) => {
    child.once("error", reject).once("exit", (code, signal) => {
      resolve(code ?? (signal === null ? 1 : 128));
    });
  });
}

async function image(): Promise<void> {
  await run(["docker", ...importBox(await boxTar())]);
}

async function end(which: { detached: boolean }): Promise<void> {
  const names = await sweep(which);
  process.stdout.write(names.length === 0 ? "Nothing to end.\n" : `Ended: ${names.join(", ")}\n`);
}

/** The living hosts that `up` has made. */
async function attached(): Promise<Namespace[]> {
  const detached = (await recorded()).filter(({ record }) => record.owner === undefined);
  return detached
    .flatMap((found) => Namespace.attach(found) ?? [])
    .filter((namespace) => namespace.facts["engine"] !== undefined)
    .sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
}

function print(rows: readonly (readonly string[])[]): void {
  const width = (column: number): number => Math.max(...rows.map((cells) => cells[column]?.length ?? 0));
  for (const cells of rows) {
    const line = cells.map((cell, column) => cell.padEnd(width(column))).join("  ");
    process.stdout.write(`${line.trimEnd()}\n`);
  }
}

function parseCount(text: string): number {
  const count = Number(text);
  if (!Number.isInteger(count) || count < 1 || count > 200)
    throw new InvalidArgumentError("a number from 1 to 200");
  return count;
}

function parseEngines(text: string): EngineLine[] {
  try {
    return text.split(",").map(parseEngineLine);
  } catch (error) {
    throw new InvalidArgumentError(error instanceof Error ? error.message : String(error));
  }
}

// The reader (`| head`) has seen enough.
process.stdout.on("error", () => process.exit());
try {
  await program.parseAsync();
} catch (error) {
  if (!(error instanceof LabError)) throw error;
  process.stderr.write(`scripts/lab: ${error.message}\n`);
  process.exitCode = 1;
}
