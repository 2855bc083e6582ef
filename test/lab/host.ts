import { existsSync } from "node:fs";
import { request } from "node:http";
import { basename, join } from "node:path";
import Docker from "dockerode";
import { type CommandOptions, type CommandResult, LabError } from "./command.ts";
import { Daemon } from "./daemon.ts";
import { install } from "./debian.ts";
import { type Engine, type EngineLine, engine as fetchEngine } from "./engines.ts";
import { boxTar, importBox } from "./image.ts";
import { Namespace } from "./namespace.ts";
import { GATEWAY, type Underlay, type UnderlayAddress } from "./underlay.ts";

/** What a lab host is made of. */
export interface LabHostOptions {
  /** Host name, at most 10 characters: its port on the underlay is named after it. */
  readonly name: string;
  /** Engine to run. Absent: a plain neighbour without one. */
  readonly engine?: EngineLine;
  /** More arguments for dockerd at every start. */
  readonly engineArgs?: readonly string[];
  /** The wire it is on. Absent: it has loopback only. */
  readonly underlay?: Underlay;
  /** Whether it runs this checkout's tsnet (`dist/`), started before the engine as in production. */
  readonly tsnet?: boolean;
  /** More arguments for `tsnet daemon` at every start. */
  readonly tsnetArgs?: readonly string[];
  /** It stays after this process, until `scripts/lab down`. */
  readonly detached?: boolean;
}

/** tsnet's entry point, as built. */
export const TSNET_MAIN = join(import.meta.dirname, "../../dist/main.js");

/** Three engines that start at once on two slow cores. */
const ENGINE_READY_MS = 90_000;
const TSNET_READY_MS = 20_000;

/** A machine in namespaces: its own links, rules, /run and /etc, and if asked its own Docker engine and tsnet. */
export class LabHost {
  /** Docker's API on this host. */
  readonly api: Docker;
  /** Addresses of its `eth0`, if it is on an underlay. */
  readonly address: UnderlayAddress | undefined;
  /** The engine it runs, with its exact version. */
  readonly engine: Engine | undefined;
  private readonly namespace: Namespace;
  private readonly options: LabHostOptions;
  private readonly engineDaemon: Daemon;
  private readonly tsnetDaemon: Daemon;

  private constructor(
    namespace: Namespace,
    options: LabHostOptions,
    parts: { readonly address: UnderlayAddress | undefined; readonly engine: Engine | undefined },
  ) {
    this.namespace = namespace;
    this.options = options;
    this.address = parts.address;
    this.engine = parts.engine;
    this.api = new Docker({ socketPath: join(this.runDir, "docker.sock") });
    this.engineDaemon = new Daemon(namespace, {
      name: "dockerd",
      ready: () => this.api.ping(),
      readyTimeoutMs: ENGINE_READY_MS,
      env: parts.engine === undefined ? {} : { LD_LIBRARY_PATH: parts.engine.libraries },
    });
    this.tsnetDaemon = new Daemon(namespace, {
      name: "tsnet",
      ready: () => activate(join(this.runDir, "docker/plugins/tsnet.sock")),
      readyTimeoutMs: TSNET_READY_MS,
    });
  }

  /**
   * Makes a host with everything asked for and waits until it answers. On failure nothing is left.
   *
   * @throws {EngineUnavailableError} where the engine cannot be fetched
   */
  static async start(options: LabHostOptions): Promise<LabHost> {
    const { name, underlay, detached } = options;
    // Before anything is waited for: hosts started side by side get addresses in the order of the calls.
    const address = underlay?.allocate();
    await install("iproute2", "iptables", "util-linux");
    const engine = options.engine === undefined ? undefined : await fetchEngine(options.engine);
    const namespace = await Namespace.start({
      name,
      detached,
      resolver: underlay === undefined ? undefined : GATEWAY.v4,
    });
    try {
      if (address !== undefined) await underlay?.join(namespace, address);
      await namespace.remember({
        env: {
          PATH: [...(engine?.path ?? []), process.env["PATH"] ?? "/usr/sbin:/usr/bin:/sbin:/bin"].join(":"),
          DOCKER_CONFIG: join(namespace.dir, "docker-config"),
          DOCKER_HOST: "unix:///run/docker.sock",
        },
        facts: { engine: engine?.version ?? "none", ...address },
      });
      const host = new LabHost(namespace, options, { address, engine });
      if (options.tsnet === true) await host.startTsnet();
      if (engine !== undefined) {
        await host.startEngine();
        await host.docker(...importBox(await boxTar()));
      }
      return host;
    } catch (error) {
      await namespace.stop();
      throw error;
    }
  }

  /** Host name. */
  get name(): string {
    return this.options.name;
  }

  /** Directory of this host alone, on the machine: logs, tsnet's state, the engine's data. */
  get dir(): string {
    return this.namespace.dir;
  }

  /** Where the host's /run is seen from outside; its Unix sockets can be reached there. */
  get runDir(): string {
    return join(this.namespace.dir, "run");
  }

  /** Directory where tsnet keeps its state. */
  get stateDir(): string {
    return join(this.namespace.dir, "tsnet-state");
  }

  /** PID, as the machine sees it, of a process in the host's namespaces, for `/proc/PID/ns/net`. */
  get pid(): number {
    return this.namespace.pid;
  }

  /** Runs a command on the host. */
  async exec(argv: readonly string[], options?: CommandOptions): Promise<CommandResult> {
    return await this.namespace.exec(argv, options);
  }

  /** Runs the engine's own `docker` client. @returns its output without space around it */
  async docker(...args: string[]): Promise<string> {
    return (await this.exec(["docker", ...args])).stdout.trim();
  }

  /** Runs one of the machine's tools in the network namespace of a running container; the files are the host's. */
  async inContainer(
    container: string,
    argv: readonly string[],
    options?: CommandOptions,
  ): Promise<CommandResult> {
    const { State: state } = await this.api.getContainer(container).inspect();
    if (state.Pid === 0) throw new LabError(`${container} on ${this.name} does not run`);
    return await this.exec(["nsenter", `--target=${String(state.Pid)}`, "--net", "--", ...argv], options);
  }

  /** Starts dockerd and waits until it answers. */
  async startEngine(): Promise<void> {
    if (this.engine === undefined) throw new LabError(`${this.name} has no engine`);
    await this.engineDaemon.start([
      "dockerd",
      ...["--host", "unix:///run/docker.sock"],
      ...["--data-root", join(this.dir, "docker")],
      ...["--exec-opt", "native.cgroupdriver=cgroupfs"],
      ...["--cgroup-parent", `/${basename(this.dir)}`],
      ...(this.options.engineArgs ?? []),
    ]);
  }

  /** Ends dockerd, with its containers unless it was told to keep them. */
  async stopEngine(): Promise<void> {
    await this.engineDaemon.stop();
  }

  /** Ends dockerd as a crash would; containerd goes with it, the containers stay. */
  async killEngine(): Promise<void> {
    await this.engineDaemon.kill();
  }

  /** Everything dockerd wrote so far. */
  async engineLog(): Promise<string> {
    return await this.engineDaemon.log();
  }

  /** Starts tsnet and waits until it answers Plugin.Activate. */
  async startTsnet(): Promise<void> {
    if (!existsSync(TSNET_MAIN)) throw new LabError("dist/main.js is not there: npm run build");
    await this.tsnetDaemon.start([
      ...[process.execPath, TSNET_MAIN, "daemon"],
      ...["--socket", "/run/docker/plugins/tsnet.sock"],
      ...["--state-dir", this.stateDir],
      ...["--docker-socket", "/run/docker.sock"],
      ...(this.options.tsnetArgs ?? []),
    ]);
  }

  /** Ends tsnet as a service manager would. */
  async stopTsnet(): Promise<void> {
    await this.tsnetDaemon.stop();
  }

  /** Ends tsnet as a crash would. */
  async killTsnet(): Promise<void> {
    await this.tsnetDaemon.kill();
  }

  /** Everything tsnet wrote so far. */
  async tsnetLog(): Promise<string> {
    return await this.tsnetDaemon.log();
  }

  /**
   * Ends everything on the host, and the host.
   *
   * @throws {LabError} that lists what could not be removed
   */
  async stop(): Promise<void> {
    await this.namespace.stop();
  }
}

/** Docker's first request to a plugin (PROTOCOL.md 1.2), by which it shows that it is there. */
async function activate(socketPath: string): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    const call = request(
      { socketPath, path: "/Plugin.Activate", method: "POST", timeout: 2000 },
      (response) => {
        response.resume();
        if (response.statusCode === 200) resolve();
        else reject(new LabError(`Plugin.Activate: status ${String(response.statusCode)}`));
      },
    );
    call.once("timeout", () => call.destroy(new LabError("Plugin.Activate: no answer")));
    call.once("error", reject);
    call.end();
  });
}
