import { install } from "../lab/debian.ts";
import { ENGINE_LINES, EngineUnavailableError } from "../lab/engines.ts";
import { skip } from "../support/skip.ts";
import { askTsnet, degraded } from "./ask-tsnet.ts";
import { onEachEngine } from "./each-engine.ts";
import { Lan, type Neighbour, PARENT, addressed, lanAddress } from "./lan.ts";
import { Site } from "./site.ts";

/** A host under test on a LAN, with a second host that has another engine. */
export class LanSite {
  readonly site: Site;
  readonly peer: Site;
  #lan: Lan | undefined;
  #addresses: { here: Neighbour; there: Neighbour } | undefined;

  constructor(site: Site) {
    this.site = site;
    const next = ENGINE_LINES[(ENGINE_LINES.indexOf(site.line) + 1) % ENGINE_LINES.length];
    this.peer = new Site(next ?? site.line);
  }

  get lan(): Lan {
    if (!this.#lan) throw new Error("the LAN is not there yet");
    return this.#lan;
  }

  /** The host under test, by its own address on the LAN. */
  get here(): Neighbour {
    if (!this.#addresses) throw new Error("the host is not on the LAN yet");
    return this.#addresses.here;
  }

  /** The second host. */
  get there(): Neighbour {
    if (!this.#addresses) throw new Error("the host is not on the LAN yet");
    return this.#addresses.there;
  }

  /** @throws {EngineUnavailableError} where the second engine cannot be fetched */
  async open(): Promise<void> {
    await this.peer.open();
    await install("curl");
    this.#lan = await Lan.start();
    const here = await this.#lan.plug(this.site.host, 11);
    const there = await this.#lan.plug(this.peer.host, 12);
    this.#addresses = { here, there };
  }

  async close(): Promise<void> {
    if (!this.#lan) return;
    await this.clear();
    // They would go with their other ends, but some time after this.
    for (const { host } of [this.site, this.peer]) await this.#lan.unplug(host);
    await this.#lan.stop();
  }

  /** Removes what tests made on both hosts. */
  async clear(): Promise<void> {
    await Promise.all([this.site.clear(), this.peer.clear()]);
  }

  /** Makes a macvlan network on the LAN. @returns its id */
  network(
    name: string,
    options: readonly string[] = [],
    { on = this.site, args = [] }: { on?: Site; args?: readonly string[] } = {},
  ): Promise<string> {
    const given = ["backend=macvlan", `parent=${PARENT}`, ...options].flatMap((option) => ["-o", option]);
    return on.network(name, ...given, ...Lan.subnets, ...args);
  }

  /** Starts a container with the LAN address of that number. */
  async run(
    name: string,
    network: string,
    number: number,
    { on = this.site, args = [] }: { on?: Site; args?: readonly string[] } = {},
  ): Promise<Neighbour> {
    const place = await on.run(name, network, ...addressed(number), ...args);
    return { ...place, ...lanAddress(number) };
  }

  /** What `tsnet status` says is degraded, by owner. */
  async degraded(): Promise<Record<string, string>> {
    return await degraded(this.site);
  }

  /** Asks tsnet on its socket, as the engine does where there is a body. */
  async ask(path: string, body?: object): Promise<unknown> {
    return await askTsnet(this.site, path, body);
  }
}

/** Defines the same tests for every engine, each on a LAN of its own that has nothing on it when a test begins. */
export function onLan(subject: string, define: (lan: LanSite) => void): void {
  onEachEngine(subject, (site) => {
    const lan = new LanSite(site);
    before(async function () {
      this.timeout(900_000);
      try {
        await lan.open();
      } catch (error) {
        if (!(error instanceof EngineUnavailableError)) throw error;
        skip(this, error.message);
      }
    });
    define(lan);
    after(() => lan.close());
  });
}
