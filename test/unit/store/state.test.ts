import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import type { Endpoint, Network } from "../../../src/model.ts";
import { State } from "../../../src/store/state.ts";
import type { Store } from "../../../src/store/store.ts";
import { id } from "../../support/requests.ts";
import { openStore } from "../../support/store.ts";
import { endpoint, network } from "./records.ts";

/** Objects as JSON gives them. */
const PLAIN = { noNullPrototype: true } as const;

const port = fc.record(
  {
    protocol: fc.constantFrom("tcp" as const, "udp" as const, "sctp" as const),
    containerPort: fc.nat(65_535),
    host: fc.record({ address: fc.constantFrom("0.0.0.0", "::"), port: fc.nat(65_535) }, PLAIN),
    family: fc.constantFrom(4 as const, 6 as const),
  },
  PLAIN,
);

/** What a driver does to the records; the same things often enough to meet again. */
const change = fc.oneof(
  fc.record({
    what: fc.constant("network" as const),
    of: fc.integer({ min: 1, max: 3 }),
    internal: fc.boolean(),
    options: fc.record({ name: fc.string(), mtu: fc.nat() }, PLAIN),
  }),
  fc.record({
    what: fc.constant("endpoint" as const),
    of: fc.integer({ min: 1, max: 3 }),
    number: fc.integer({ min: 1, max: 4 }),
    sandbox: fc.option(fc.string(), { nil: undefined }),
    ports: fc.option(fc.array(port, { maxLength: 3 }), { nil: undefined }),
  }),
  fc.record({ what: fc.constant("no network" as const), of: fc.integer({ min: 1, max: 3 }) }),
  fc.record({
    what: fc.constant("no endpoint" as const),
    of: fc.integer({ min: 1, max: 3 }),
    number: fc.integer({ min: 1, max: 4 }),
  }),
  fc.constant({ what: "restart" as const }),
);

describe("State", () => {
  let dir: string;
  let store: Store;
  let state: State;
  const open = (at = dir) => {
    store = openStore(at);
    state = new State(store);
  };

  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), "tsnet-test-"));
    open();
  });
  afterEach(async () => {
    await store.close();
    rmSync(dir, { recursive: true });
  });

  it("has the same networks and endpoints after any operations and restarts", async () => {
    let run = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(change, { maxLength: 30 }), async (changes) => {
        const own = join(dir, String((run += 1)));
        await store.close();
        open(own);
        const networks = new Map<string, Network>();
        const endpoints = new Map<string, Endpoint>();
        const check = () => {
          assert.deepEqual(byId(state.networks()), networks);
          const all = state.networks().flatMap(({ id: of }) => state.endpoints(of));
          assert.deepEqual(byId(all), endpoints);
          for (const { id: one, network: of } of endpoints.values()) assert.equal(state.networkOf(one), of);
        };
        for (const one of [...changes, { what: "restart" as const }]) {
          if (one.what === "restart") {
            await store.close();
            open(own);
          } else await apply(one, networks, endpoints);
          check();
        }
      }),
      { numRuns: 15 },
    );
  });

  it("changes nothing when a record is as it should be", async () => {
    await state.networkRecord(network(1)).apply();
    assert.equal(await state.networkRecord(network(1)).apply(), false);
    await state.endpointRecord(endpoint(2, 1)).apply();
    assert.equal(await state.endpointRecord(endpoint(2, 1)).apply(), false);
    assert.equal(await state.endpointRecord(endpoint(2, 1, { sandbox: "x" })).apply(), true);
    await state.endpointRecord(endpoint(3, 1)).revert();
    await state.networkRecord(network(2)).revert();
    assert.equal(state.networks().length, 1);
  });

  it("refuses a record that no schema allows, and names it", async () => {
    store.put(`network/${id(1)}`, { ...network(1), ipv4: "none" });
    assert.throws(() => new State(store), {
      message: new RegExp(`^record network/${id(1)} cannot be read: `),
    });
  });

  /** As the driver does: an endpoint only on a network, and a network's endpoints before it. */
  async function apply(
    one: Exclude<typeof change extends fc.Arbitrary<infer T> ? T : never, { what: "restart" }>,
    networks: Map<string, Network>,
    endpoints: Map<string, Endpoint>,
  ): Promise<void> {
    const of = network(one.of);
    if (one.what === "network") {
      const record = network(one.of, { internal: one.internal, options: one.options });
      assert.equal(await state.networkRecord(record).apply(), !same(networks.get(of.id), record));
      networks.set(of.id, record);
    } else if (one.what === "no network") {
      for (const mine of state.endpoints(of.id)) {
        await state.endpointRecord(mine).revert();
        endpoints.delete(mine.id);
      }
      await state.networkRecord(of).revert();
      networks.delete(of.id);
    } else if (networks.has(of.id)) {
      const number = 16 * one.of + one.number;
      if (one.what === "no endpoint") {
        await state.endpointRecord(endpoint(number, one.of)).revert();
        endpoints.delete(id(number));
        return;
      }
      const { sandbox, ports } = one;
      const record = endpoint(number, one.of, {
        ...(sandbox === undefined ? {} : { sandbox }),
        ...(ports ? { ports } : {}),
      });
      assert.equal(await state.endpointRecord(record).apply(), !same(endpoints.get(record.id), record));
      endpoints.set(record.id, record);
    }
  }
});

function byId<T extends { readonly id: string }>(records: readonly T[]): Map<string, T> {
  return new Map(records.map((record) => [record.id, record]));
}

function same(a: unknown, b: unknown): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}
