import { isDeepStrictEqual } from "node:util";
import type { Logger } from "pino";
import type { Backend, GatewayNeed } from "./backends/backend.ts";
import { type Backends, backendOf, parseOptions } from "./backends/index.ts";
import { ConflictError, TakenError, reason } from "./errors.ts";
import type { Rule } from "./firewall/rule.ts";
import { type Knowledge, isForgotten } from "./knowledge.ts";
import { KeyedLock } from "./lock.ts";
import {
  type Endpoint,
  type EndpointRequest,
  type JoinResponse,
  type Network,
  type NetworkRequest,
  endpointOf,
  joined,
  left,
} from "./model.ts";
import { Ports } from "./ports.ts";
import { type Step, applyAgain, applyAll, applyOne, repairAll, revertAll, stepLog } from "./step.ts";
import type { State } from "./store/state.ts";

/** Share of a network's capacity at which to warn. */
const NEARLY_FULL = 0.9;

/** The other networks of a container. */
interface Siblings {
  readonly sandbox?: string;
  readonly networks: readonly string[];
}

/** The network driver's operations, for any backend. Each may come twice, late, or for what is gone. */
export class Driver {
  readonly #state: State;
  readonly #backends: Backends;
  readonly #log: Logger;
  readonly #engine: Knowledge;
  readonly #lock = new KeyedLock();
  /** Networks that are being made and not on record yet, without what was found on the host. */
  readonly #beginning = new Map<string, Network>();
  /** Networks whose plans were applied since the start, and when that was done (Unix time in ms). */
  readonly #made = new Map<string, number>();
  /** Networks of which that was told. */
  readonly #nearlyFull = new Set<string>();
  /** The operations on what endpoints publish. */
  readonly ports: Ports;

  constructor(state: State, backends: Backends, engine: Knowledge, log: Logger) {
    this.#state = state;
    this.#backends = backends;
    this.#engine = engine;
    this.#log = log;
    this.ports = new Ports(state, backends, this.#lock, engine, log);
  }

  /** In which families a network with these `-o` options needs no gateway address reserved. */
  gatewayNeed(options: Readonly<Record<string, string>>): GatewayNeed {
    const parsed = parseOptions(this.#backends, options, this.#log);
    return parsed.backend.gatewayNeed(parsed.options);
  }

  /** Makes a network. Nothing is left of it when that fails: the engine will not ask to delete it. */
  async createNetwork(request: NetworkRequest): Promise<void> {
    try {
      await this.#create(request);
    } catch (error) {
      if (!(error instanceof TakenError)) throw error;
      const other = this.#state.network(error.by);
      // Without a record it has gone meanwhile, or is only being made: then it is in the way once more.
      if (other) await this.#deleteForgotten(other, error);
      await this.#create(request);
    }
  }

  async #create(request: NetworkRequest): Promise<void> {
    await this.#lock.run(request.id, async () => {
      const { name, backend, options } = parseOptions(this.#backends, request.options, this.#log);
      const asked = {
        id: request.id,
        backend: name,
        options,
        internal: request.internal,
        ipv4: [...request.ipv4],
        ipv6: [...request.ipv6],
      };
      const known = this.#state.network(request.id);
      if (known && !isDeepStrictEqual({ ...known, ...asked }, known))
        throw new ConflictError(`network ${request.id} exists with other settings`);
      try {
        const network = known ?? (await this.#survey(backend, asked));
        await (known ? applyAgain : applyAll)(this.networkPlan(network), stepLog(this.#log, request.id));
        this.#made.set(network.id, Date.now());
        // The engine need not wait for that.
        void this.#warnOfTrouble(network);
      } finally {
        this.#beginning.delete(request.id);
      }
    });
  }

  /** @throws what it is given, unless the engine has forgotten that network */
  async #deleteForgotten(network: Network, otherwise: TakenError): Promise<void> {
    const { id } = network;
    // While it is being made the engine does not list it, however long that takes, nor at once afterwards.
    const made = { createdAt: this.madeAt(network) };
    if (this.#beginning.has(id) || !(await isForgotten(made, () => this.#engine.knowsNetwork(id))))
      throw otherwise;
    this.#log.warn({ network: id }, "the engine no longer knows this, which is in the way; deleting it");
    await this.deleteNetwork(id);
  }

  /** It is made, whatever is wrong with what it sits on. */
  async #warnOfTrouble(network: Network): Promise<void> {
    const trouble = await this.trouble(network).catch(reason);
    if (trouble) this.#log.warn({ network: network.id, reason: trouble }, "created, but degraded");
  }

  /**
   * Deletes a network with whatever endpoints it still has. An unknown one is gone already.
   *
   * @returns whether there was one
   */
  async deleteNetwork(id: string): Promise<boolean> {
    const gone: Siblings[] = [];
    const remove = async () => {
      const network = this.#state.network(id);
      if (!network) return false;
      for (const endpoint of this.#state.endpoints(id)) {
        const siblings = this.#siblingsOf(endpoint);
        await this.#remove(network, endpoint);
        gone.push(siblings);
      }
      const log = stepLog(this.#log, id);
      await revertAll(this.#backend(network).network(network), log);
      // Last, and only if all of it is gone: until then the reconciler must know what may be on the host.
      await revertAll([this.#state.networkRecord(network)], log);
      this.#made.delete(id);
      this.#nearlyFull.delete(id);
      return true;
    };
    try {
      return await this.#lock.run(id, remove);
    } finally {
      // Also of those that have gone before one that could not.
      await this.#tellSiblings(gone);
    }
  }

  /**
   * Makes a container's attachment.
   *
   * @returns the MAC address, if the request had none: the engine refuses one it gave itself
   */
  async createEndpoint(request: EndpointRequest): Promise<string | undefined> {
    const { network, id } = request;
    const gone: Siblings[] = [];
    try {
      for (;;) {
        const concurrent = this.#isConcurrent(request);
        const create = () => this.#createEndpoint(request, concurrent, gone);
        const made = await (concurrent
          ? this.#lock.runPart(network, id, create)
          : this.#lock.run(network, create));
        // When it is its turn, it may have to be alone there after all.
        if (made) return request.mac ? undefined : made.mac;
      }
    } finally {
      await this.#tellSiblings(gone);
    }
  }

  /** Whether it can be made while others on its network are: it takes nothing from them, and all else is there. */
  #isConcurrent(request: EndpointRequest): boolean {
    const network = this.#state.network(request.network);
    return (
      network !== undefined &&
      this.#backend(network).concurrentEndpoints === true &&
      this.#made.has(network.id) &&
      this.#state.withAddressOf(request).length === 0
    );
  }

  /**
   * @param concurrent others on the network may be under way
   * @param gone takes down what had to go for it
   * @returns undefined if none may, and then nothing was done
   */
  async #createEndpoint(
    request: EndpointRequest,
    concurrent: boolean,
    gone: Siblings[],
  ): Promise<Endpoint | undefined> {
    const network = this.#state.requireNetwork(request.network);
    if (!concurrent) await this.#makeAgain(network);
    const fixed = await this.#backend(network).mac?.(network);
    const known = this.#state.endpoint(request.network, request.id);
    const asked = endpointOf(request, fixed, known?.createdAt);
    if (known && !isDeepStrictEqual({ ...known, ...asked }, known))
      throw new ConflictError(`endpoint ${request.id} exists with other addresses`);
    const elsewhere = this.#state.networkOf(request.id);
    if (elsewhere !== undefined && elsewhere !== network.id)
      throw new ConflictError(`endpoint ${request.id} exists on network ${elsewhere}`);
    if (!known && !concurrent) await this.#supplant(network, asked, gone);
    // No await from here until it is on record, so that nobody else is given its addresses.
    if (concurrent && !this.#isConcurrent(request)) return undefined;
    // One that had left and was not deleted to its end comes back.
    const { left: _, ...endpoint } = known ?? asked;
    const log = stepLog(this.#log, request.network);
    await (known ? applyAgain : applyAll)(this.endpointPlan(network, endpoint), log);
    if (!known) this.#warnWhenNearlyFull(network);
    return asked;
  }

  /**
   * Removes endpoints that have an address which is now given to another: an engine has each only once, so it has
   * forgotten them, as one does that is killed. Their ports would lead to the new one.
   */
  async #supplant(network: Network, given: Endpoint, gone: Siblings[]): Promise<void> {
    for (const endpoint of this.#state.withAddressOf(given)) {
      this.#log.warn(
        { network: network.id, endpoint: endpoint.id },
        "its address is given to another endpoint; deleting it",
      );
      const siblings = this.#siblingsOf(endpoint);
      await this.#remove(network, endpoint);
      gone.push(siblings);
    }
  }

  /** Removes a container's attachment. An unknown one is gone already. */
  async deleteEndpoint(networkId: string, id: string): Promise<void> {
    const remove = async () => {
      const network = this.#state.network(networkId);
      const endpoint = this.#state.endpoint(networkId, id);
      const siblings = endpoint && this.#siblingsOf(endpoint);
      if (network && endpoint) await this.#remove(network, endpoint);
      return siblings;
    };
    const network = this.#state.network(networkId);
    const gone = await (network && this.#backend(network).concurrentEndpoints
      ? this.#lock.runPart(networkId, id, remove)
      : this.#lock.run(networkId, remove));
    if (gone) await this.#tellSiblings([gone]);
  }

  /** Says what the engine has to do with the sandbox, and remembers that it does it. */
  async join(networkId: string, id: string, sandbox: string): Promise<JoinResponse> {
    const { response, siblings } = await this.#lock.runPart(networkId, id, async () => {
      const network = this.#state.requireNetwork(networkId);
      const endpoint = this.#state.requireEndpoint(networkId, id);
      const inside = joined(endpoint, sandbox);
      await applyOne(this.#state.endpointRecord(inside), stepLog(this.#log, networkId));
      return { response: this.#backend(network).join(network, endpoint), siblings: this.#siblingsOf(inside) };
    });
    await this.#tellSiblings([siblings]);
    return response;
  }

  /** The container is leaving; the engine still holds its link. An unknown endpoint is gone already. */
  async leave(networkId: string, id: string): Promise<void> {
    const siblings = await this.#lock.runPart(networkId, id, async () => {
      const network = this.#state.network(networkId);
      const endpoint = this.#state.endpoint(networkId, id);
      if (!network || !endpoint) return undefined;
      const siblings = this.#siblingsOf(endpoint);
      await this.ports.unpublish(network, endpoint, left(endpoint));
      this.#backend(network).onLeave?.(endpoint);
      return siblings;
    });
    if (siblings) await this.#tellSiblings([siblings]);
  }

  /** Everything that makes a network, the record first. */
  networkPlan(network: Network): Step[] {
    return [this.#state.networkRecord(network), ...this.#backend(network).network(network)];
  }

  /** Everything that makes an endpoint, the record first. */
  endpointPlan(network: Network, endpoint: Endpoint): Step[] {
    return [this.#state.endpointRecord(endpoint), ...this.#endpointSteps(network, endpoint)];
  }

  /** Every firewall rule of a network's plan. */
  rules(network: Network): Rule[] {
    return this.#backend(network).rules(network, this.#state.endpoints(network.id));
  }

  /** The network's rules were not these, and are again. */
  async onRules(network: Network): Promise<void> {
    await this.#backend(network).onRules?.(network, this.#state.endpoints(network.id));
  }

  /** Links of the host's that the network sits on, nearest first. */
  parents(network: Network): string[] {
    return this.#backend(network).parents?.(network) ?? [];
  }

  /** What keeps the network from working that no step of its plan can change. */
  async trouble(network: Network): Promise<string | undefined> {
    return await this.#backend(network).trouble?.(network);
  }

  /** When a network was made, Unix time in ms: its record is older. */
  madeAt({ id, createdAt }: Network): number {
    return this.#made.get(id) ?? createdAt;
  }

  /** Whether an operation on that network is under way. */
  isBusy(network: string): boolean {
    return this.#lock.isHeld(network);
  }

  /** Runs something while no operation on that network is under way. */
  async exclusively<T>(network: string, fn: () => Promise<T>): Promise<T> {
    return await this.#lock.run(network, fn);
  }

  async #survey(backend: Backend, asked: Omit<Network, "found" | "createdAt">): Promise<Network> {
    // Of two that cannot both be there, and are asked for at once, the first one wins.
    const others = [...this.#state.networks(), ...this.#beginning.values()];
    const network = { found: undefined, createdAt: Date.now(), ...asked };
    this.#beginning.set(asked.id, network);
    return { ...network, found: await backend.survey(network, others) };
  }

  /**
   * An engine that waited for tsnet to start may ask for an endpoint before the reconciler has come to its network,
   * of which nothing is left when the machine has started anew. What cannot be made is the reconciler's to tell.
   */
  async #makeAgain(network: Network): Promise<void> {
    if (this.#made.has(network.id)) return;
    const log = stepLog(this.#log, network.id);
    const failures = await repairAll(this.networkPlan(network), (step) => {
      log.done(step);
    });
    if (failures.length === 0) this.#made.set(network.id, network.createdAt);
  }

  /** Once, until there are fewer again. */
  #warnWhenNearlyFull(network: Network): void {
    const { id } = network;
    const { capacity } = this.#backend(network);
    const endpoints = this.#state.endpoints(id).length;
    if (capacity === undefined || endpoints < NEARLY_FULL * capacity) this.#nearlyFull.delete(id);
    else if (!this.#nearlyFull.has(id)) {
      this.#nearlyFull.add(id);
      this.#log.warn({ network: id, endpoints, capacity }, "the network is nearly full; use another");
    }
  }

  #endpointSteps(network: Network, endpoint: Endpoint): Step[] {
    const backend = this.#backend(network);
    return [...backend.endpoint(network, endpoint), ...(backend.publish?.(network, endpoint) ?? [])];
  }

  /**
   * The other networks of a container: once the record says that the endpoint has come, and before it says that it has
   * gone, since another that goes at the same time counts with it until its own record says so.
   */
  #siblingsOf({ network, sandbox }: Endpoint): Siblings {
    if (!sandbox) return { networks: [] };
    const networks = new Set(this.#state.inSandbox(sandbox).map((endpoint) => endpoint.network));
    networks.delete(network);
    return { sandbox, networks: [...networks] };
  }

  /**
   * A container has come to a network or left one: what it publishes on the others depends on that. Called without a
   * lock, since it takes those of the other networks, one after the other.
   */
  async #tellSiblings(gone: readonly Siblings[]): Promise<void> {
    for (const { sandbox, networks } of gone)
      for (const id of networks)
        await this.#lock.run(id, async () => {
          const network = this.#state.network(id);
          if (!network || !sandbox) return;
          await this.#backend(network).onSiblings?.(network, this.#state.endpoints(id), sandbox);
        });
  }

  async #remove(network: Network, endpoint: Endpoint): Promise<void> {
    const log = stepLog(this.#log, network.id);
    await revertAll(this.#endpointSteps(network, endpoint), log);
    await revertAll([this.#state.endpointRecord(endpoint)], log);
  }

  #backend(network: Network): Backend {
    return backendOf(this.#backends, network);
  }
}
