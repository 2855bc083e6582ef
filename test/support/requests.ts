/** Ids as the engine makes them, that differ in their first digits. */
export function id(number: number): string {
  return number.toString(16).padStart(6, "0").padEnd(64, "a");
}

/** A CreateNetwork request of engine 28 for network 10.NUMBER.0.0/16, with more `-o` options if given. */
export function createNetwork(number: number, options: Readonly<Record<string, string>> = {}): object {
  const pool = `10.${number}.0`;
  return {
    NetworkID: id(number),
    Options: {
      "com.docker.network.enable_ipv4": true,
      "com.docker.network.enable_ipv6": false,
      "com.docker.network.generic": options,
    },
    IPv4Data: [{ AddressSpace: "LocalDefault", Gateway: `${pool}.1/16`, Pool: `${pool}.0/16` }],
    IPv6Data: [],
  };
}

/** A CreateEndpoint request for 10.NETWORK.0.NUMBER. */
export function createEndpoint(network: number, number: number): object {
  return {
    ...endpoint(network, number),
    Interface: { Address: `10.${network}.0.${number}/16`, AddressIPv6: "", MacAddress: "" },
    Options: {},
  };
}

/** The ids of an endpoint: the whole of many requests. */
export function endpoint(network: number, number: number): { NetworkID: string; EndpointID: string } {
  return { NetworkID: id(network), EndpointID: id(network * 1000 + number) };
}

/** A Join request. */
export function join(network: number, number: number): object {
  return { ...endpoint(network, number), SandboxKey: "/run/docker/netns/2c1207509e31", Options: {} };
}

/** Has an endpoint publish port 80 as one of the host's. */
export function publish(network: number, number: number, port: number): object {
  const mapping = { Proto: 6, IP: "", Port: 80, HostIP: "", HostPort: port, HostPortEnd: port };
  return { ...endpoint(network, number), Options: { "com.docker.network.portmap": [mapping] } };
}
