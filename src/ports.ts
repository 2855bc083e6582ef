import { setImmediate as othersTurn } from "node:timers/promises";
import { isDeepStrictEqual } from "node:util";
import type { Logger } from "pino";
import type { Backend } from "./backends/backend.ts";
import { type Backends, backendOf } from "./backends/index.ts";
import { ConflictError } from "./errors.ts";
import type { Family } from "./ip.ts";
import { type Knowledge, isForgotten } from "./knowledge.ts";
import type { KeyedLock } from "./lock.ts";
import {
  type Endpoint,
  type Network,
  type PortBinding,
  type PublishedPort,
  addressOf,
  isSameHostPort,
} from "./model.ts";
import {
  type Step,
  type StepLog,
  applyAgain,
  applyAll,
  applyOne,
  repairAll,
  revertAll,
  stepLog,
} from "./step.ts";
import type { State } from "./store/state.ts";

/** What an endpoint is to publish. */
interface Publication {
  readonly network: string;
  readonly id: string;
  readonly bindings: readonly PortBinding[];
  readonly elsewhere: readonly Family[];
}

/** What the endpoints of all networks publish: the driver's operations on ports. */
export class Ports {
  readonly #state: State;
  readonly #backends: Backends;
  readonly #lock: KeyedLock;
  readonly #engine: Knowledge;
  readonly #log: Logger;

  /** @param lock the driver's, by network */
  constructor(state: State, backends: Backends, lock: KeyedLock, engine: Knowledge, log: Logger) {
    this.#state = state;
    this.#backends = backends;
    this.#lock = lock;
    this.#engine = engine;
    this.#log = log;
  }

  /**
   * Takes the host ports of every endpoint on record. Until then a container could publish a port that another one
   * has, or had until its engine was killed, and its packets would go to that one. A port that somebody else has taken
   * is the reconciler's to tell of.
   */
  async reserve(): Promise<void> {
    for (const network of this.#state.networks()) {
      const backend = this.#backend(network);
      const steps = this.#state.endpoints(network.id).flatMap((one) => backend.reserve?.(network, one) ?? []);
      await repairAll(steps, () => undefined);
      // No step waits for anything, and others have begun what does.
      await othersTurn();
    }
  }

  /**
   * Publishes ports of a container whose gateway the endpoint is, in place of whatever it published before.
   * When one cannot be published, all is as it was.
   *
   * @param elsewhere families that another endpoint of the container publishes for, if this one does not have them
   */
  async publish(
    network: string,
    id: string,
    bindings: readonly PortBinding[],
    elsewhere: readonly Family[] = [],
  ): Promise<void> {
    const asked = { network, id, bindings, elsewhere };
    try {
      await this.#lock.runPart(asked.network, asked.id, () => this.#replace(asked));
    } catch (error) {
      if (!(error instanceof ConflictError)) throw error;
      await this.#makeRoom(asked);
      // Even if there was none to be made: whoever had one may have gone meanwhile, or be about to.
      await this.#lock.run(asked.network, () => this.#replace(asked));
    }
  }

  /** Takes back what an endpoint publishes; nothing being published is success. */
  async revoke(networkId: string, id: string): Promise<void> {
    await this.#lock.runPart(networkId, id, async () => {
      const network = this.#state.network(networkId);
      const endpoint = this.#state.endpoint(networkId, id);
      if (network && endpoint?.ports) await this.unpublish(network, endpoint, endpoint);
    });
  }

  /**
   * Takes back what an endpoint publishes. The endpoint must be locked.
   *
   * @param after what is on record of the endpoint from then on; if that cannot be written, nothing is taken back
   */
  async unpublish(network: Network, endpoint: Endpoint, after: Endpoint): Promise<void> {
    const { ports, ...silent } = after;
    const log = stepLog(this.#log, network.id);
    // As long as it is on record it is told of networks that its container leaves, and of none afterwards.
    const steps = this.#backend(network).publish?.(network, endpoint) ?? [];
    await applyOne(this.#state.endpointRecord(silent), log);
    if (!ports) return;
    try {
      await revertAll(steps, log);
    } catch (error) {
      // Whatever is left must be on record.
      await applyOne(this.#state.endpointRecord(after), log);
      throw error;
    }
  }

  async #replace({ network: networkId, id, bindings, elsewhere }: Publication): Promise<void> {
    const network = this.#state.requireNetwork(networkId);
    const endpoint = this.#state.requireEndpoint(networkId, id);
    const backend = this.#backend(network);
    // Engines ask this of internal networks too, as the last network of a container goes.
    if (bindings.length === 0 && !endpoint.ports) return;
    if (network.internal || !backend.choosePorts || !backend.publish) {
      this.#log.warn(
        { network: networkId, endpoint: id },
        "this network publishes no ports; -p has no effect",
      );
      return;
    }
    const log = stepLog(this.#log, networkId);
    const others = [...elsewhere, ...(this.#hasIpv4Elsewhere(endpoint) ? [4 as const] : [])];
    const ports = backend.choosePorts(network, endpoint, bindings, others);
    await applyAll(republish(this.#state, backend, network, endpoint, ports, log), log);
  }

  /**
   * Whether the engine asks another endpoint of the container to publish for IPv4: only one that has a gateway there.
   */
  #hasIpv4Elsewhere({ network, sandbox }: Endpoint): boolean {
    const others = sandbox ? this.#state.inSandbox(sandbox).filter((other) => other.network !== network) : [];
    return others.some((other) => {
      const its = this.#state.network(other.network);
      return its !== undefined && this.#backend(its).join(its, other).gateway !== undefined;
    });
  }

  /** Takes such ports from those that need not have them. */
  async #makeRoom({ network, id, bindings }: Publication): Promise<void> {
    const sandbox = this.#state.endpoint(network, id)?.sandbox;
    for (const other of this.#state.networks())
      for (const { id } of this.#state.endpoints(other.id).filter((one) => hasOne(one, bindings)))
        await this.#lock.runPart(other.id, id, async () => {
          const endpoint = this.#state.endpoint(other.id, id);
          if (!endpoint?.ports) return;
          const own = sandbox !== undefined && endpoint.sandbox === sandbox;
          if (!own || !(await this.#keepDirect(other, endpoint))) await this.#freeGone(other, endpoint);
        });
  }

  /**
   * The container has come to a network that has the family: what leads to it by the other family is in the way.
   *
   * @returns whether there was any
   */
  async #keepDirect(network: Network, endpoint: Endpoint): Promise<boolean> {
    const { ports = [] } = endpoint;
    const direct = ports.filter(({ family }) => addressOf(endpoint, family) !== undefined);
    if (direct.length === ports.length) return false;
    const log = stepLog(this.#log, network.id);
    const backend = this.#backend(network);
    await applyAll(republish(this.#state, backend, network, endpoint, direct, log), log);
    return true;
  }

  /** An engine that was killed never says that its containers have left, and starts them again at once. */
  async #freeGone(network: Network, endpoint: Endpoint): Promise<void> {
    if (!(await this.#isGone(network, endpoint))) return;
    const ids = { network: network.id, endpoint: endpoint.id };
    this.#log.warn(ids, "its container is gone; its ports are free again");
    await this.unpublish(network, endpoint, endpoint);
  }

  async #isGone(network: Network, endpoint: Endpoint): Promise<boolean> {
    if (await this.#backend(network).isGone?.(endpoint)) return true;
    return await isForgotten(endpoint, () => this.#engine.knowsEndpoint(network.id, endpoint.id));
  }

  #backend(network: Network): Backend {
    return backendOf(this.#backends, network);
  }
}

/** Whether an endpoint has one of the host ports that are asked for. */
function hasOne({ ports = [] }: Endpoint, bindings: readonly PortBinding[]): boolean {
  return ports.some(({ protocol, host }) =>
    bindings.some(
      (asked) =>
        host && asked.protocol === protocol && asked.hostPort <= host.port && host.port <= asked.hostPortEnd,
    ),
  );
}

/**
 * What replaces the ports that an endpoint publishes by others, such that a failure leaves it as it was.
 * Ports in both sets are not touched: connections to them go on.
 *
 * @param ports chosen and taken already; given back when the plan fails
 */
function republish(
  state: State,
  backend: Backend,
  network: Network,
  endpoint: Endpoint,
  ports: readonly PublishedPort[],
  log: StepLog,
): Step[] {
  const { ports: before = [], ...silent } = endpoint;
  const without = (these: readonly PublishedPort[], those: readonly PublishedPort[]): Step[] => {
    const differing = these.filter((port) => !those.some((other) => isDeepStrictEqual(port, other)));
    return backend.publish?.(network, { ports: differing, ...silent }) ?? [];
  };
  const record = state.endpointRecord({ ports: [...ports], ...silent });
  const chosen = ports.filter((port) => !before.some((old) => isSameHostPort(old, port)));
  return [
    {
      what: record.what,
      apply: async () => {
        await record.apply();
        // Even if that changed nothing, the ports are taken.
        return true;
      },
      // While a port cannot be given back, the record must have it: nobody else would ever do so.
      revert: async () => {
        await backend.reserve?.(network, { ...silent, ports: chosen }).revert();
        await state.endpointRecord(endpoint).apply();
      },
    },
    {
      what: `ports that endpoint ${endpoint.id} no longer publishes`,
      apply: async () => {
        await revertAll(without(before, ports), log);
        return true;
      },
      // Both may need the same: the socket of a host port, or a rule for the container's other networks.
      revert: async () => {
        try {
          await revertAll(without(ports, before), log);
        } finally {
          await applyAgain(without(before, ports), log);
        }
      },
    },
    ...without(ports, before),
  ];
}
