import assert from "node:assert/strict";
import type { Driver } from "../../../src/driver.ts";
import type { NetworkRequest, PortBinding } from "../../../src/model.ts";
import { NETWORKS, PORTS, endpointOf } from "../../support/networks.ts";

/** The operations of a network and an endpoint on it, in the order in which engines ask for them. */
export const OPERATIONS = [
  "create network",
  "create endpoint",
  "join",
  "publish",
  "publish others",
  "revoke",
  "leave",
  "delete endpoint",
  "delete network",
] as const;
export type Operation = (typeof OPERATIONS)[number];

/** A link of the test's that macvlan networks sit on. */
export const PARENT = "wire0";

const DUAL_STACK = NETWORKS["dual stack"] ?? assert.fail();
const HOST_ACCESS = {
  ...DUAL_STACK,
  options: { backend: "macvlan", parent: PARENT, host_access: "on" },
} as const;

/** A network of each backend, with the plans that have most steps. Their ids are the same, so one at a time. */
export const KINDS = {
  bridge: DUAL_STACK,
  "macvlan with host access": HOST_ACCESS,
  "macvlan without a parent": { ...DUAL_STACK, options: { backend: "macvlan" } },
  "macvlan in a sandbox": HOST_ACCESS,
} as const satisfies Record<string, NetworkRequest>;
export type Kind = keyof typeof KINDS;

/** In place of {@link PORTS}: one stays, one goes, one comes. */
const OTHERS: readonly PortBinding[] = [
  ...PORTS.slice(0, 1),
  { protocol: "tcp", containerPort: 443, hostAddress: "", hostPort: 8443, hostPortEnd: 8443 },
];

/** Says where the sandbox is that the engine has moved the link into, for the one kind that has such. */
export const SANDBOX_VARIABLE = "TSNET_TEST_SANDBOX";
const NOWHERE = "/run/docker/netns/0123456789ab";

/** Asks a driver for an operation as an engine does, the same each time. */
export async function perform(driver: Driver, kind: Kind, operation: Operation): Promise<void> {
  const network = KINDS[kind];
  const endpoint = endpointOf(network);
  const ids = [network.id, endpoint.id] as const;
  switch (operation) {
    case "create network":
      await driver.createNetwork(network);
      return;
    case "create endpoint":
      await driver.createEndpoint(endpoint);
      return;
    case "join":
      await driver.join(
        ...ids,
        kind === "macvlan in a sandbox" ? (process.env[SANDBOX_VARIABLE] ?? NOWHERE) : NOWHERE,
      );
      return;
    case "publish":
      await driver.ports.publish(...ids, PORTS);
      return;
    case "publish others":
      await driver.ports.publish(...ids, OTHERS);
      return;
    case "revoke":
      await driver.ports.revoke(...ids);
      return;
    case "leave":
      await driver.leave(...ids);
      return;
    case "delete endpoint":
      await driver.deleteEndpoint(...ids);
      return;
    case "delete network":
      await driver.deleteNetwork(network.id);
  }
}
