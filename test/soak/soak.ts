import { setTimeout as sleep } from "node:timers/promises";
import { degraded } from "../e2e/ask-tsnet.ts";
import { mustBe, onHost } from "../e2e/snapshot.ts";
import { until } from "../e2e/until.ts";
import { CommandError } from "../lab/command.ts";
import type { LabHost } from "../lab/host.ts";
import { complaints } from "./checks.ts";
import { type Happened, isExplained, unexplainedErrors } from "./errors.ts";
import { FAULTS, FORGOTTEN_MS, type Fault, removeStrays } from "./faults.ts";
import type { Ground } from "./ground.ts";
import { type Operation, compatible, draw } from "./operations.ts";
import { Random } from "./random.ts";
import { type World, lastWord, lookAt } from "./world.ts";

/** What a soak is given. */
export interface SoakOptions {
  readonly seed: number;
  /** How long operations go on; the end takes up to two minutes more. */
  readonly forMs: number;
  /** Told once a minute and at the end. */
  readonly progress: (line: string) => void;
}

/** How many operations are under way at once, at most. */
const AT_ONCE = 3;
/** How often something goes wrong, in rounds. */
const FAULT_SHARE = 0.2;
/** How long after the beginning of a round something may go wrong. */
const FAULT_WITHIN_MS = 600;
/** How soon everything must work again after that: an engine starts its containers again one by one. */
const RECOVERY_MS = 30_000;
const LOOK_AGAIN_MS = 250;
/** Rounds that a failure tells of. */
const HISTORY = 8;
const MINUTE_MS = 60_000;

/**
 * Random operations on a real engine with faults among them. After each round the world, as the engine says it is,
 * must work, and tsnet have nothing to complain about that the faults do not explain; in the end the host must be as it was.
 *
 * @throws {Error} with the seed, what was wrong and what was done last
 */
export async function soak(ground: Ground, options: SoakOptions): Promise<void> {
  const { host } = ground;
  const place = { host, exec: host.exec.bind(host) };
  const before = await onHost(place);
  const run = new Soak(ground, options);
  try {
    await ground.plug();
    await run.rounds();
    const isWell = async () => Object.keys(await degraded(host)).length === 0;
    await until("nothing to be degraded", isWell, FORGOTTEN_MS);
    await clear(host);
    await ground.unplug();
    // The rules that were flushed were the engine's as well.
    await host.stopEngine();
    await host.startEngine();
    await mustBe(before, place, FORGOTTEN_MS);
    await run.hasNoErrors();
    run.report();
  } catch (error) {
    throw new Error(`seed ${String(options.seed)}: ${message(error)}\n${run.history()}`, { cause: error });
  }
}

class Soak {
  readonly #ground: Ground;
  readonly #options: SoakOptions;
  readonly #random: Random;
  readonly #start = performance.now();
  readonly #history: string[] = [];
  readonly #happened: Happened[] = [];
  #world: World = { networks: [], containers: [] };
  #done = 0;
  #refused = 0;
  #slowest = 0;
  /** Characters of tsnet's log that were looked at. */
  #read = 0;

  constructor(ground: Ground, options: SoakOptions) {
    this.#ground = ground;
    this.#options = options;
    this.#random = new Random(options.seed);
  }

  async rounds(): Promise<void> {
    let told = 0;
    for (let now = 0; now < this.#options.forMs; now = performance.now() - this.#start) {
      await this.#round();
      if (now - told < MINUTE_MS) continue;
      told = now;
      this.report();
    }
  }

  report(): void {
    const { networks, containers } = this.#world;
    const faults = FAULTS.flatMap(({ what }) => {
      const { length: count } = this.#happened.filter(({ fault }) => fault.what === what);
      return count > 0 ? `${what} ${String(count)}` : [];
    });
    this.#options.progress(
      [
        `${String(Math.round((performance.now() - this.#start) / 1000))} s`,
        `${String(this.#done)} operations, ${String(this.#refused)} refused while something was wrong`,
        `${String(networks.length)} networks, ${String(containers.length)} containers`,
        `slowest recovery ${String(Math.round(this.#slowest))} ms`,
        faults.join(", ") || "no faults",
      ].join("; "),
    );
  }

  /** Fails if tsnet's log has an error since this was asked last that no fault explains. */
  async hasNoErrors(): Promise<void> {
    const log = (await this.#ground.host.tsnetLog()).slice(this.#read);
    this.#read += log.length;
    const errors = unexplainedErrors(log, this.#happened);
    if (errors.length > 0) throw new Error(`tsnet's log: ${errors.join("\n")}`);
  }

  /** What was done last, a line a round. */
  history(): string {
    return this.#history.join("\n");
  }

  async #round(): Promise<void> {
    this.#world = await lookAt(this.#ground.host);
    const operations = this.#draw();
    const fault = this.#random.next() < FAULT_SHARE ? this.#random.pick(FAULTS) : undefined;
    const words = operations.map(({ args }) => args.slice(0, 8).join(" "));
    this.#history.push([...words, ...(fault ? [`(${fault.what})`] : [])].join(" | "));
    if (this.#history.length > HISTORY) this.#history.shift();
    const happening = fault && { fault, from: Date.now(), to: Infinity };
    if (happening) this.#happened.push(happening);
    const [, ...outcomes] = await Promise.all([
      fault && this.#happen(fault),
      ...operations.map((operation) => this.#perform(operation, fault !== undefined)),
    ]);
    const refused = operations.filter((_, index) => outcomes[index] === "refused");
    const cutOff = refused.flatMap(({ alone }) => alone);
    const removed = fault?.endsContainers ? await removeStrays(this.#ground.host, cutOff) : [];
    // An engine does not take back everything of what it could not do to its end: a container that it could not
    // connect is without its gateway until it is connected, or connected without being told.
    for (const operation of refused) {
      if (operation.undo) await this.#perform({ ...operation, args: operation.undo }, true);
      await this.#perform(operation, true);
    }
    await this.#works(this.#untouched(operations, fault, removed), fault ? RECOVERY_MS : 0);
    if (happening) happening.to = Date.now();
    await this.hasNoErrors();
  }

  /** Containers that must run after the round. */
  #untouched(
    operations: readonly Operation[],
    fault: Fault | undefined,
    removed: readonly string[],
  ): string[] {
    const touched = new Set([...removed, ...operations.flatMap(({ alone }) => alone)]);
    return this.#world.containers
      .filter(({ runs, always, name }) => runs && !touched.has(name) && (always || !fault?.endsContainers))
      .map(({ name }) => name);
  }

  #draw(): Operation[] {
    const operations: Operation[] = [];
    const count = 1 + this.#random.below(AT_ONCE);
    for (let tries = 0; tries < 4 * AT_ONCE && operations.length < count; tries += 1) {
      const operation = draw(this.#random, this.#world, this.#ground.plans);
      if (operation && operations.every((other) => compatible(operation, other))) operations.push(operation);
    }
    return operations;
  }

  async #perform({ args, then }: Operation, mayFail: boolean): Promise<"done" | "refused"> {
    try {
      await this.#ground.host.docker(...args);
      if (then) await this.#ground.host.docker(...then);
      this.#done += 1;
      return "done";
    } catch (error) {
      if (!mayFail || !(error instanceof CommandError)) throw error;
      this.#refused += 1;
      return "refused";
    }
  }

  async #happen({ happen }: Fault): Promise<void> {
    await sleep(this.#random.below(FAULT_WITHIN_MS));
    await happen(this.#ground, this.#random);
  }

  /** Fails if the world does not work within that time, or one of these containers does not run. */
  async #works(running: readonly string[], withinMs: number): Promise<void> {
    const start = performance.now();
    for (;;) {
      const world = await lookAt(this.#ground.host);
      const ended = running.filter((name) => !world.containers.some((one) => one.name === name && one.runs));
      const wrong = [
        ...ended.map((name) => `${name} does not run`),
        ...(await complaints(this.#ground, world)),
        ...(await this.#degraded()),
      ];
      const took = performance.now() - start;
      if (wrong.length === 0) {
        if (withinMs > 0) this.#slowest = Math.max(this.#slowest, took);
        return;
      }
      if (took > withinMs) {
        for (const name of ended) wrong.push(`${name}: ${await lastWord(this.#ground.host, name)}`);
        throw new Error(wrong.join("; "));
      }
      await sleep(LOOK_AGAIN_MS);
    }
  }

  /** What tsnet calls degraded now, and no fault explains whose traces last longer than itself. */
  async #degraded(): Promise<string[]> {
    const lasting = this.#happened.filter(({ fault }) => fault.degrades?.forMs);
    return Object.entries(await degraded(this.#ground.host))
      .filter(([owner, why]) => !isExplained(owner, why, Date.now(), lasting))
      .map(([owner, why]) => `${owner} is degraded: ${why}`);
  }
}

/** Removes every container and every network of tsnet's. */
async function clear(host: LabHost): Promise<void> {
  const { containers, networks } = await lookAt(host);
  if (containers.length > 0) await host.docker("rm", "-f", ...containers.map(({ name }) => name));
  if (networks.length > 0) await host.docker("network", "rm", ...networks);
}

function message(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
