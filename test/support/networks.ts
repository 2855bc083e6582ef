import type { EndpointRequest, NetworkRequest, PortBinding } from "../../src/model.ts";
import { id } from "./requests.ts";

const BRIDGE = "com.docker.network.bridge";
/** The subnets of a network of each family. */
export const V4 = { subnet: "10.1.0.0/16", gateway: "10.1.0.1/16", aux: {} };
export const V6 = { subnet: "fd01::/64", gateway: "fd01::1/64", aux: {} };

/** One network of each kind that plans differ by; their ids are the same, so one at a time. */
export const NETWORKS: Readonly<Record<string, NetworkRequest>> = {
  "dual stack": network({}),
  "IPv4 with two subnets": network({
    ipv4: [V4, { subnet: "10.9.0.0/24", gateway: "10.9.0.1/24", aux: {} }],
    ipv6: [],
  }),
  "IPv6 only": network({ ipv4: [] }),
  "icc=false": network({
    options: { [`${BRIDGE}.enable_icc`]: "false", "com.docker.network.driver.mtu": "1400" },
  }),
  internal: network({ internal: true }),
  isolated: network({
    internal: true,
    options: { [`${BRIDGE}.gateway_mode_ipv4`]: "isolated", [`${BRIDGE}.gateway_mode_ipv6`]: "isolated" },
  }),
  routed: network({
    options: { [`${BRIDGE}.gateway_mode_ipv4`]: "routed", [`${BRIDGE}.gateway_mode_ipv6`]: "routed" },
  }),
  "on an adopted bridge": network({ options: { [`${BRIDGE}.name`]: "own-br" } }),
};

/** Name of the bridge of a network above. */
export function bridgeOf(request: NetworkRequest): string {
  return request.options[`${BRIDGE}.name`] ?? `ts-${id(1).slice(0, 12)}`;
}

/** An endpoint of it: the number is that of its addresses. */
export function endpointOf(request: NetworkRequest, number = 2): EndpointRequest {
  return {
    network: request.id,
    id: id(number),
    ...(request.ipv4.length > 0 ? { ipv4: `10.1.0.${number}/16` } : {}),
    ...(request.ipv6.length > 0 ? { ipv6: `fd01::${number.toString(16)}/64` } : {}),
  };
}

/** Two ports to publish. */
export const PORTS: readonly PortBinding[] = [
  { protocol: "tcp", containerPort: 80, hostAddress: "", hostPort: 8080, hostPortEnd: 8080 },
  { protocol: "udp", containerPort: 53, hostAddress: "", hostPort: 5353, hostPortEnd: 5353 },
];

function network(different: Partial<NetworkRequest>): NetworkRequest {
  return { id: id(1), options: {}, internal: false, ipv4: [V4], ipv6: [V6], ...different };
}
