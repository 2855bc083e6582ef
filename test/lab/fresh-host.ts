import { basename, join } from "node:path";
import { type CommandResult } from "./command.ts";
import { install } from "./debian.ts";
import { type EngineLine, engine } from "./engines.ts";
import { LabHost } from "./host.ts";

/** Where this checkout is; it is the same on every lab host. */
export const CHECKOUT = join(import.meta.dirname, "../..");

/** The longest that one of the scripts may take where nothing has to be fetched or built. */
const SCRIPT_MS = 120_000;

/** What is written to the first ones stays on the host, over what the machine has; the others are empty. */
const PRIVATE = `
  for path in /var/lib /usr/local/bin; do
    own=/run/own$path
    mkdir -p $own
    mount -t tmpfs tmpfs $own
    mkdir $own/upper $own/work
    mount -t overlay -o lowerdir=$path,upperdir=$own/upper,workdir=$own/work overlay $path
  done
  mkdir -p /var/lib/docker
  for path in /var/lib/docker /var/log /var/tmp; do mount -t tmpfs tmpfs $path; done
`;

/**
 * A lab host on which this checkout's scripts run as on a machine that has Docker installed and has never run it: its
 * links, rules, processes and whatever the scripts write are its own, and end with it.
 */
export class FreshHost {
  readonly #host: LabHost;
  readonly #env: Readonly<Record<string, string>>;

  private constructor(host: LabHost, env: Readonly<Record<string, string>>) {
    this.#host = host;
    this.#env = env;
  }

  /**
   * Makes the host.
   *
   * @throws {EngineUnavailableError} where the engine cannot be fetched
   */
  static async start(name: string, line: EngineLine): Promise<FreshHost> {
    const { path, libraries } = await engine(line);
    await install("iputils-ping");
    const host = await LabHost.start({ name });
    const fresh = new FreshHost(host, {
      PATH: [...path, process.env["PATH"] ?? ""].join(":"),
      LD_LIBRARY_PATH: libraries,
      DOCKER_HOST: "unix:///run/of-somebody-else.sock",
    });
    await fresh.sh(PRIVATE);
    // The cgroups are the machine's. What is in this one is removed with the host.
    const settings = {
      "cgroup-parent": `/${basename(host.dir)}`,
      "exec-opts": ["native.cgroupdriver=cgroupfs"],
    };
    await fresh.sh(`echo '${JSON.stringify(settings)}' >/etc/docker/daemon.json`);
    return fresh;
  }

  /** Runs one of the checkout's scripts, which may fail. */
  async script(name: string, ...args: string[]): Promise<CommandResult> {
    const argv = [join(CHECKOUT, "scripts", name), ...args];
    return await this.#host.exec(argv, { env: this.#env, timeoutMs: SCRIPT_MS, allowFailure: true });
  }

  /** Runs a shell command. @returns its output without space around it */
  async sh(command: string): Promise<string> {
    const { stdout } = await this.#host.exec(["sh", "-ec", command], { env: this.#env });
    return stdout.trim();
  }

  /** Runs `docker` with the engine that scripts/up starts. @returns its output without space around it */
  async docker(...args: string[]): Promise<string> {
    const argv = ["docker", "--host", "unix:///run/docker.sock", ...args];
    return (await this.#host.exec(argv, { env: this.#env })).stdout.trim();
  }

  /** What runs on it, by name, but for what this call runs. */
  async processes(): Promise<string[]> {
    const names = (await this.sh("ps -eo comm=")).split("\n");
    return names.filter((name) => name !== "sh" && name !== "ps").sort();
  }

  /** Ends it with everything on it. */
  async stop(): Promise<void> {
    await this.#host.stop();
  }
}
