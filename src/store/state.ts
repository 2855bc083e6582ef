import { isDeepStrictEqual } from "node:util";
import { TsnetError, reason } from "../errors.ts";
import { Endpoint, Network } from "../model.ts";
import { type LinkOwner, bridgeName, hostEnd } from "../names.ts";
import type { Step } from "../step.ts";
import { PREFIX, keyOf } from "./keys.ts";
import type { Store } from "./store.ts";

/** The networks and endpoints there should be: read once, kept in memory, written through to the store. */
export class State {
  readonly #store: Store;
  readonly #networks = new Map<string, Network>();
  readonly #endpoints = new Map<string, Map<string, Endpoint>>();
  /** Id of each endpoint's network. */
  readonly #networkOf = new Map<string, string>();
  /** The endpoints in each sandbox, by their ids. */
  readonly #sandboxes = new Map<string, Map<string, Endpoint>>();
  /** By the name of the link, which the kernel's events have when they have nothing else. */
  readonly #owners = new Map<string, LinkOwner>();
  #list: readonly Network[] | undefined;

  constructor(store: Store) {
    this.#store = store;
    for (const { key, value } of store.list(PREFIX.network)) this.#remember(read(key, value, Network));
    for (const { key, value } of store.list(PREFIX.endpoint)) this.#attach(read(key, value, Endpoint));
  }

  /** Why nothing can be put on record; undefined if it can. */
  trouble(): string | undefined {
    return this.#store.trouble();
  }

  /** Every network. The same array until there are others. */
  networks(): readonly Network[] {
    return (this.#list ??= [...this.#networks.values()]);
  }

  network(id: string): Network | undefined {
    return this.#networks.get(id);
  }

  /** @throws {TsnetError} that says what to do, if there is no such network */
  requireNetwork(id: string): Network {
    const network = this.network(id);
    if (network) return network;
    throw new TsnetError(
      "unknown-network",
      `no record of network ${id}; delete it with \`docker network rm\` and create it again`,
    );
  }

  /** Every endpoint of a network. */
  endpoints(network: string): Endpoint[] {
    return [...(this.#endpoints.get(network)?.values() ?? [])];
  }

  endpoint(network: string, id: string): Endpoint | undefined {
    return this.#endpoints.get(network)?.get(id);
  }

  /** @throws {TsnetError} that says what to do, if there is no such endpoint */
  requireEndpoint(network: string, id: string): Endpoint {
    const endpoint = this.endpoint(network, id);
    if (endpoint) return endpoint;
    throw new TsnetError(
      "unknown-endpoint",
      `no endpoint ${id} on network ${network}; restart the container`,
    );
  }

  /** The other endpoints of a network that have an address of this one. */
  withAddressOf({ network, id, ipv4, ipv6 }: Pick<Endpoint, "network" | "id" | "ipv4" | "ipv6">): Endpoint[] {
    const given = [ipv4, ipv6].filter((address) => address !== undefined);
    return this.endpoints(network).filter(
      (one) => one.id !== id && given.some((address) => address === one.ipv4 || address === one.ipv6),
    );
  }

  /** Every endpoint of the container that has this sandbox. */
  inSandbox(sandbox: string): Endpoint[] {
    return [...(this.#sandboxes.get(sandbox)?.values() ?? [])];
  }

  /** Id of the network that has the endpoint. */
  networkOf(endpoint: string): string | undefined {
    return this.#networkOf.get(endpoint);
  }

  /** Whose a link of that name is: a network's bridge, or the host's end of an endpoint's pair. */
  ownerOfLink(name: string): LinkOwner | undefined {
    return this.#owners.get(name);
  }

  /**
   * The record of a network: the first step of its plan, so that whatever may be on the host has one. It is on the disk
   * before the engine is answered, which keeps its own there and never repeats CreateNetwork.
   */
  networkRecord(network: Network): Step {
    const key = keyOf(network);
    return {
      what: `record network ${network.id}`,
      apply: async () => {
        if (isDeepStrictEqual(this.#networks.get(network.id), network)) return false;
        this.#store.put(key, network);
        this.#remember(network);
        return true;
      },
      revert: async () => {
        this.#store.delete(key);
        this.#forget(network.id);
      },
    };
  }

  /**
   * The record of an endpoint: the first step of its plan. It need not outlive the machine's next start. It is there
   * as soon as it is applied, before anything else happens.
   */
  endpointRecord(endpoint: Endpoint): Step {
    const key = keyOf(endpoint);
    return {
      what: `record endpoint ${endpoint.id}`,
      apply: async () => {
        if (isDeepStrictEqual(this.endpoint(endpoint.network, endpoint.id), endpoint)) return false;
        this.#store.put(key, endpoint);
        this.#attach(endpoint);
        return true;
      },
      revert: async () => {
        this.#store.delete(key);
        this.#detach(endpoint);
      },
    };
  }

  #remember(network: Network): void {
    this.#networks.set(network.id, network);
    this.#owners.set(bridgeName(network.id), { kind: "network", id: network.id });
    this.#list = undefined;
  }

  #forget(network: string): void {
    for (const endpoint of this.endpoints(network)) this.#detach(endpoint);
    this.#endpoints.delete(network);
    this.#networks.delete(network);
    this.#owners.delete(bridgeName(network));
    this.#list = undefined;
  }

  #attach(endpoint: Endpoint): void {
    this.#detach(endpoint);
    const { id, network, sandbox } = endpoint;
    const onNetwork = this.#endpoints.get(network) ?? new Map<string, Endpoint>();
    this.#endpoints.set(network, onNetwork.set(id, endpoint));
    this.#networkOf.set(id, network);
    this.#owners.set(hostEnd(id), { kind: "endpoint", id });
    if (sandbox === undefined) return;
    const inSandbox = this.#sandboxes.get(sandbox) ?? new Map<string, Endpoint>();
    this.#sandboxes.set(sandbox, inSandbox.set(id, endpoint));
  }

  #detach({ id, network }: Endpoint): void {
    const sandbox = this.endpoint(network, id)?.sandbox ?? "";
    const inSandbox = this.#sandboxes.get(sandbox);
    inSandbox?.delete(id);
    if (inSandbox?.size === 0) this.#sandboxes.delete(sandbox);
    this.#endpoints.get(network)?.delete(id);
    this.#networkOf.delete(id);
    this.#owners.delete(hostEnd(id));
  }
}

function read<T>(key: string, value: unknown, schema: { parse(value: unknown): T }): T {
  try {
    return schema.parse(value);
  } catch (cause) {
    throw new TsnetError("store", `record ${key} cannot be read: ${reason(cause)}`, { cause });
  }
}
