import assert from "node:assert/strict";
import { keyOf, problems } from "../../../src/store/audit.ts";
import { id } from "../../support/requests.ts";
import { endpoint, network } from "./records.ts";

const port = (number: number) => ({
  protocol: "tcp" as const,
  containerPort: 80,
  host: { address: "::", port: number },
  family: 6 as const,
});

function store(
  ...records: readonly { readonly id: string; readonly network?: string }[]
): Map<string, unknown> {
  return new Map(records.map((record) => [keyOf(record), record]));
}

describe("problems", () => {
  const sound = [
    network(1),
    network(2),
    endpoint(2, 1, { ports: [port(80)] }),
    endpoint(3, 1, { ports: [port(81)] }),
    endpoint(4, 2, { ipv4: "10.1.0.2/16" }),
  ];

  it("are none of a store as a daemon writes it", () => {
    assert.deepEqual(problems(store(...sound)), []);
    assert.deepEqual(problems(new Map()), []);
  });

  const [first, third] = [`endpoint/${id(1)}/${id(2)}`, `endpoint/${id(1)}/${id(5)}`];
  const wrong: Record<string, [Map<string, unknown>, string]> = {
    "a value that no schema allows": [
      new Map([[`network/${id(7)}`, { ...network(7), internal: "no" }]]),
      `network/${id(7)}: internal: Invalid input: expected boolean, received string`,
    ],
    "a key of another kind": [new Map([["pool/1", {}]]), "pool/1: its key is not known"],
    "a key that is not its value's": [
      new Map([[`network/${id(8)}`, network(7)]]),
      `network/${id(8)}: its value is that of network/${id(7)}`,
    ],
    "an endpoint of no network": [
      store(endpoint(5, 3)),
      `endpoint/${id(3)}/${id(5)}: there is no such network`,
    ],
    "an id that two endpoints have": [
      store(endpoint(2, 2)),
      `endpoint/${id(2)}/${id(2)}: id ${id(2)} is that of ${first} too`,
    ],
    "an address that two endpoints have": [
      store(endpoint(5, 1, { ipv4: "10.1.0.2/16" })),
      `${third}: address 10.1.0.2 of network ${id(1)} is that of ${first} too`,
    ],
    "a host port that two endpoints publish": [
      store(endpoint(5, 1, { ports: [port(80)] })),
      `${third}: host port [::]:80/tcp is that of ${first} too`,
    ],
  };
  for (const [kind, [more, problem]] of Object.entries(wrong))
    it(`are ${kind}`, () => {
      assert.deepEqual(problems(new Map([...store(...sound), ...more])), [problem]);
    });
});
