import type { Backend } from "../../../src/backends/backend.ts";
import { createBackends } from "../../../src/backends/index.ts";
import { Publisher } from "../../../src/backends/publisher.ts";
import { Driver } from "../../../src/driver.ts";
import { Firewall } from "../../../src/firewall/firewall.ts";
import { Host } from "../../../src/kernel/host.ts";
import type { Endpoint, Network } from "../../../src/model.ts";
import { Reconciler } from "../../../src/reconcile/reconciler.ts";
import type { Step } from "../../../src/step.ts";
import { DirectoryLock } from "../../../src/store/directory-lock.ts";
import { State } from "../../../src/store/state.ts";
import type { Store } from "../../../src/store/store.ts";
import { ALL_KNOWN } from "../../support/known.ts";
import { memoryLog } from "../../support/log.ts";
import { openStore } from "../../support/store.ts";
import { type Kind, type Operation, perform } from "./operations.ts";

/** What the test tells this process, one at a time; each is answered. */
export type Order =
  | { readonly order: "open"; readonly directory: string }
  /** As the daemon does when it starts. */
  | { readonly order: "reconcile" }
  /** With `dieAfter`, the process kills itself once it did that much to steps. */
  | {
      readonly order: "perform";
      readonly kind: Kind;
      readonly operations: readonly Operation[];
      readonly dieAfter?: number;
    }
  | { readonly order: "close" };

/** How an order went. */
export interface Answer {
  readonly error?: string;
  /** What this order did to steps: `apply …`, `revert …`. An apply that found nothing to change is not listed. */
  readonly calls: readonly string[];
  /** Every record by key, without its time. */
  readonly records: Readonly<Record<string, unknown>>;
}

/** Everything the daemon is made of but its server, with every step counted. */
class Victim {
  readonly #lock: DirectoryLock;
  readonly #store: Store;
  readonly #host: Host;
  readonly #firewall = new Firewall();
  readonly #publisher: Publisher;
  readonly #driver: Driver;
  readonly #reconciler: Reconciler;
  calls: string[] = [];
  dieAfter = Infinity;

  constructor(directory: string) {
    const { log } = memoryLog();
    this.#lock = new DirectoryLock(directory);
    this.#store = openStore(directory);
    const state = new CountedState(this.#store, (steps) => this.#counted(steps));
    this.#host = new Host((error) => {
      throw error;
    });
    this.#publisher = new Publisher(this.#host, this.#firewall);
    const addresses = { 4: "0.0.0.0", 6: "::" };
    const backends = createBackends(this.#host, this.#firewall, this.#publisher, addresses, state, ALL_KNOWN);
    const watched = Object.entries(backends).map(
      ([name, backend]) => [name, this.#watched(backend)] as const,
    );
    this.#driver = new Driver(state, Object.fromEntries(watched), ALL_KNOWN, log);
    const companions = {
      onBridge: async () => {
        this.#firewall.setEngineBridges([]);
      },
      engineNetworks: () => Promise.resolve(new Set<string>()),
      askForBridges: () => Promise.resolve(false),
      onMoved: () => undefined,
    };
    this.#reconciler = new Reconciler(this.#driver, state, this.#host, this.#firewall, companions, log);
  }

  async reconcile(): Promise<void> {
    await this.#reconciler.everything();
  }

  async perform(kind: Kind, operations: readonly Operation[]): Promise<void> {
    for (const operation of operations) await perform(this.#driver, kind, operation);
  }

  records(): Record<string, unknown> {
    return Object.fromEntries(
      this.#store.list("").map(({ key, value }) => [key, { ...(value as object), createdAt: 0 }] as const),
    );
  }

  async close(): Promise<void> {
    await this.#reconciler.stop();
    await this.#store.close();
    this.#firewall.close();
    this.#publisher.close();
    await this.#host.close();
    this.#lock.release();
  }

  /** The backend with the steps of its plans counted. */
  #watched(backend: Backend): Backend {
    const plans: Partial<Backend> = {
      network: (network) => this.#counted(backend.network(network)),
      endpoint: (network, endpoint) => this.#counted(backend.endpoint(network, endpoint)),
      publish: (network, endpoint) => this.#counted(backend.publish?.(network, endpoint) ?? []),
    };
    return new Proxy(backend, {
      get: (target, name) => {
        const own: unknown = Reflect.get(plans, name) ?? Reflect.get(target, name);
        return typeof own === "function" ? (own.bind(target) as unknown) : own;
      },
    });
  }

  #counted(steps: readonly Step[]): Step[] {
    return steps.map((step) => ({
      ...step,
      apply: async () => {
        const changed = await step.apply();
        if (changed) this.#count(`apply ${step.what}`);
        return changed;
      },
      revert: async () => {
        await step.revert();
        this.#count(`revert ${step.what}`);
      },
    }));
  }

  #count(call: string): void {
    this.calls.push(call);
    if (this.calls.length === this.dieAfter) process.kill(process.pid, "SIGKILL");
  }
}

/** With the records' steps counted as well. */
class CountedState extends State {
  readonly #counted: (steps: readonly Step[]) => Step[];

  constructor(store: Store, counted: (steps: readonly Step[]) => Step[]) {
    super(store);
    this.#counted = counted;
  }

  override networkRecord(network: Network): Step {
    return this.#one(super.networkRecord(network));
  }

  override endpointRecord(endpoint: Endpoint): Step {
    return this.#one(super.endpointRecord(endpoint));
  }

  #one(step: Step): Step {
    const [counted] = this.#counted([step]);
    return counted ?? step;
  }
}

let victim: Victim | undefined;

async function obey(order: Order): Promise<void> {
  if (order.order === "open") {
    victim = new Victim(order.directory);
    return;
  }
  if (!victim) throw new Error("not open");
  victim.calls = [];
  victim.dieAfter = order.order === "perform" ? (order.dieAfter ?? Infinity) : Infinity;
  if (order.order === "reconcile") await victim.reconcile();
  else if (order.order === "perform") {
    if (victim.dieAfter === 0) process.kill(process.pid, "SIGKILL");
    await victim.perform(order.kind, order.operations);
  } else {
    await victim.close();
    process.disconnect();
  }
}

process.on("message", (order: Order) => {
  const answer = (error?: unknown): Answer => ({
    ...(error === undefined ? {} : { error: error instanceof Error ? error.message : "no error" }),
    calls: victim?.calls ?? [],
    records: order.order === "close" ? {} : (victim?.records() ?? {}),
  });
  obey(order).then(
    () => process.send?.(answer()),
    (error: unknown) => process.send?.(answer(error)),
  );
});
