import assert from "node:assert/strict";
import type { Backend } from "../../src/backends/backend.ts";
import type { Step } from "../../src/step.ts";
import type { Moment } from "./world.ts";

/** Makes one call of a backend's steps fail, once. */
export class Faults {
  /** Every call so far, `apply …` or `revert …`. */
  readonly calls: string[] = [];
  /** Those of them that were made and changed something, as far as they tell. */
  readonly changes: string[] = [];
  readonly #planned = new Map<number, Moment>();

  /** Forgets the calls so far, and fails the ones of these numbers from now on, each before or after it is really made. */
  plan(...faults: readonly (readonly [number: number, moment: Moment])[]): void {
    this.calls.length = 0;
    this.changes.length = 0;
    this.#planned.clear();
    for (const [number, moment] of faults) this.#planned.set(number, moment);
  }

  /** The same backend, with its steps counted and made to fail. */
  wrap(backend: Backend): Backend {
    return {
      options: backend.options,
      ...(backend.capacity === undefined ? {} : { capacity: backend.capacity }),
      survey: (network, others) => backend.survey(network, others),
      gatewayNeed: (options) => backend.gatewayNeed(options),
      network: (network) => this.#steps(backend.network(network)),
      endpoint: (network, endpoint) => this.#steps(backend.endpoint(network, endpoint)),
      join: (network, endpoint) => backend.join(network, endpoint),
      ...(backend.choosePorts && {
        choosePorts: (network, endpoint, bindings, elsewhere) =>
          backend.choosePorts?.(network, endpoint, bindings, elsewhere) ?? [],
        publish: (network, endpoint) => this.#steps(backend.publish?.(network, endpoint) ?? []),
      }),
      ...(backend.reserve && {
        reserve: (network, endpoint) => backend.reserve?.(network, endpoint) ?? assert.fail(),
      }),
      isGone: async (endpoint) => (await backend.isGone?.(endpoint)) ?? false,
      parents: (network) => backend.parents?.(network) ?? [],
      trouble: async (network) => await backend.trouble?.(network),
      mac: async (network) => await backend.mac?.(network),
      onSiblings: async (network, endpoints, sandbox) => {
        await backend.onSiblings?.(network, endpoints, sandbox);
      },
      onLeave: (endpoint) => backend.onLeave?.(endpoint),
      onRules: async (network, endpoints) => {
        await backend.onRules?.(network, endpoints);
      },
      rules: (network, endpoints) => backend.rules(network, endpoints),
    };
  }

  #steps(steps: readonly Step[]): Step[] {
    return steps.map((step) => ({
      ...step,
      apply: () => this.#call(`apply ${step.what}`, () => step.apply()),
      revert: () => this.#call(`revert ${step.what}`, () => step.revert()),
    }));
  }

  async #call<T>(call: string, fn: () => Promise<T>): Promise<T> {
    const number = this.calls.push(call) - 1;
    const moment = this.#planned.get(number);
    if (moment === "before") throw new Error(`fault before ${call}`);
    const result = await fn();
    if (result !== false) this.changes.push(call);
    if (moment === "after") throw new Error(`fault after ${call}`);
    return result;
  }
}
