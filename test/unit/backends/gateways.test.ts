import assert from "node:assert/strict";
import { gatewaysOf, subnetsBeside } from "../../../src/backends/gateways.ts";
import type { Network, Pool } from "../../../src/model.ts";
import { network } from "../store/records.ts";

const V4: Pool = { subnet: "10.1.0.0/16", gateway: "10.1.0.1/16", aux: {} };
const SECOND: Pool = { subnet: "10.9.0.0/24", gateway: "10.9.0.1/24", aux: {} };
const V6: Pool = { subnet: "fd01::/64", gateway: "FD01:0::1/64", aux: {} };
const SECOND_V6: Pool = { subnet: "fd09::/64", gateway: "fd09::1/64", aux: {} };
const BOTH = { ipv4: "10.1.0.2/16", ipv6: "fd01::2/64" };

function withPools(different: Partial<Pick<Network, "ipv4" | "ipv6">>): Network {
  return network(1, { ipv4: [V4], ipv6: [V6], ...different });
}

describe("gatewaysOf", () => {
  it("is the gateway of the pool that each address is from, bare", () => {
    const two = withPools({ ipv4: [V4, SECOND], ipv6: [V6, SECOND_V6] });
    assert.deepEqual(gatewaysOf(two, BOTH), { gateway: "10.1.0.1", gatewayIPv6: "fd01::1" });
    assert.deepEqual(gatewaysOf(two, { ipv4: "10.9.0.2/24", ipv6: "fd09::2/64" }), {
      gateway: "10.9.0.1",
      gatewayIPv6: "fd09::1",
    });
  });

  it("is none of a family in which the endpoint has no address, and says so if that is IPv4", () => {
    // Engine 20.10 fails a container with an IPv6 gateway and no IPv6 address, and counts an IPv4 gateway only.
    assert.deepEqual(gatewaysOf(withPools({}), { ipv4: "10.1.0.2/16" }), { gateway: "10.1.0.1" });
    assert.deepEqual(gatewaysOf(withPools({}), { ipv6: "fd01::2/64" }), {
      gatewayIPv6: "fd01::1",
      withoutGateway: true,
    });
    assert.deepEqual(gatewaysOf(withPools({}), {}), { withoutGateway: true });
  });

  it("is none where the pool has none, or no pool has the address", () => {
    const without = withPools({ ipv4: [{ subnet: V4.subnet, aux: {} }], ipv6: [] });
    assert.deepEqual(gatewaysOf(without, BOTH), { withoutGateway: true });
    assert.deepEqual(gatewaysOf(withPools({}), { ipv4: "10.2.0.2/16" }), { withoutGateway: true });
  });

  it("is the auxiliary address of the engine's name for it instead, of that pool and that family", () => {
    const named = withPools({
      ipv4: [
        { ...V4, aux: { DefaultGatewayIPv4: "10.1.0.254/16", host: "10.1.0.5/16" } },
        { ...SECOND, aux: { DefaultGatewayIPv6: "10.9.0.254/24" } },
      ],
      ipv6: [{ ...V6, aux: { DefaultGatewayIPv6: "fd01::fe/64", DefaultGatewayIPv4: "fd01::fd/64" } }],
    });
    assert.deepEqual(gatewaysOf(named, BOTH), { gateway: "10.1.0.254", gatewayIPv6: "fd01::fe" });
    assert.deepEqual(gatewaysOf(named, { ipv4: "10.9.0.2/24" }), { gateway: "10.9.0.1" });
  });

  it("is the auxiliary address also where the pool has no gateway", () => {
    const named = withPools({
      ipv4: [{ subnet: V4.subnet, aux: { DefaultGatewayIPv4: "10.1.0.254/16" } }],
      ipv6: [{ subnet: V6.subnet, aux: { DefaultGatewayIPv6: "fd01::fe/64" } }],
    });
    assert.deepEqual(gatewaysOf(named, BOTH), { gateway: "10.1.0.254", gatewayIPv6: "fd01::fe" });
  });
});

describe("subnetsBeside", () => {
  it("is the other subnets of the families in which the endpoint has an address", () => {
    const two = withPools({ ipv4: [V4, SECOND], ipv6: [V6, SECOND_V6] });
    assert.deepEqual(subnetsBeside(two, BOTH), { onLink: ["10.9.0.0/24", "fd09::/64"] });
    assert.deepEqual(subnetsBeside(two, { ipv4: "10.9.0.2/24" }), { onLink: ["10.1.0.0/16"] });
    assert.deepEqual(subnetsBeside(withPools({}), BOTH), {});
  });
});
