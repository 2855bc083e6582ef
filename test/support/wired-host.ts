import type { NetworkRequest } from "../../src/model.ts";
import { FakeSandbox } from "./fake-sandbox.ts";
import { type HostState, hostState, mustBeIsolated, plugWire, wipe } from "./isolated.ts";
import { endpointOf } from "./networks.ts";
import { Site } from "./site.ts";

/** What tests of macvlan networks stand on: a host with a wire, and the sandboxes of its containers. */
export class WiredHost {
  #site: Site | undefined;
  #atFirst: HostState | undefined;
  readonly #sandboxes: FakeSandbox[] = [];

  /** Of the test that runs. */
  get site(): Site {
    if (!this.#site) throw new Error("no test runs");
    return this.#site;
  }

  /** How the host was before the test. */
  get atFirst(): HostState {
    if (!this.#atFirst) throw new Error("no test runs");
    return this.#atFirst;
  }

  async start(): Promise<void> {
    await plugWire();
    this.#atFirst = await hostState();
    this.#site = new Site();
  }

  async end(): Promise<void> {
    await this.site.stop();
    for (const sandbox of this.#sandboxes.splice(0)) await sandbox.end();
    await wipe();
  }

  /** A container's namespace, until the test is over. */
  async sandbox(): Promise<FakeSandbox> {
    const made = await FakeSandbox.start();
    this.#sandboxes.push(made);
    return made;
  }

  /** Container 2 of a network, as the engine sets it up. */
  async joined(network: NetworkRequest, name = "eth0"): Promise<FakeSandbox> {
    const endpoint = endpointOf(network, 2);
    await this.site.driver.createNetwork(network);
    await this.site.driver.createEndpoint(endpoint);
    const sandbox = await this.sandbox();
    await this.site.driver.join(network.id, endpoint.id, sandbox.path);
    await sandbox.take(endpoint, name);
    return sandbox;
  }
}

/** Starts such a host before each test of a suite, and takes away after it whatever is there. */
export function onWire(): WiredHost {
  const host = new WiredHost();
  before(mustBeIsolated);
  beforeEach(() => host.start());
  afterEach(() => host.end());
  return host;
}
