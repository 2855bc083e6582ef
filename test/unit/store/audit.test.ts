import assert from "node:assert/strict";
import { problems } from "../../../src/store/audit.ts";
import { keyOf } from "../../../src/store/keys.ts";
import { id } from "../../support/requests.ts";
import { endpoint, network } from "./records.ts";

const BACKENDS = ["bridge"];

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
    assert.deepEqual(problems(store(...sound), BACKENDS), []);
    assert.deepEqual(problems(new Map(), BACKENDS), []);
  });

  const [first, third] = [`endpoint/${id(1)}/${id(2)}`, `endpoint/${id(1)}/${id(5)}`];
  const wrong: Record<string, [Map<string, unknown>, string]> = {
    "a value that no schema allows": [
      new Map([[`network/${id(7)}`, { ...network(7), internal: "no" }]]),
      `network/${id(7)}: internal: Invalid input: expected boolean, received string`,
    ],
    "a network of no backend": [
      store({ ...network(7), backend: "brudge" } as ReturnType<typeof network>),
      `network/${id(7)}: there is no backend "brudge"`,
    ],
    "a subnet that is none": [
      store({ ...network(7), ipv4: [{ subnet: "300.1.1.1/99", aux: {} }] } as ReturnType<typeof network>),
      `network/${id(7)}: ipv4.0.subnet: "300.1.1.1" is not an IP address`,
    ],
    "an address that is none": [
      store(endpoint(5, 1, { ipv4: "10.1.0.2" })),
      `${third}: ipv4: "10.1.0.2" is not an address with a prefix length, such as 10.1.2.3/24`,
    ],
    "a MAC address that is none": [
      store(endpoint(5, 1, { mac: "zz:42:0a:01:00:02" })),
      `${third}: mac: must be six hex octets with colons`,
    ],
    "a port that is none": [
      store(endpoint(5, 1, { ports: [port(99_999)] })),
      `${third}: ports.0.host.port: Too big: expected number to be <=65535`,
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
      assert.deepEqual(problems(new Map([...store(...sound), ...more]), BACKENDS), [problem]);
    });
});
