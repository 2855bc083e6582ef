import type { Endpoint, Network } from "../../../src/model.ts";
import { id } from "../../support/requests.ts";

/** A network's record. */
export function network(number: number, different: Partial<Network> = {}): Network {
  return {
    id: id(number),
    backend: "bridge",
    options: { backend: "bridge" },
    internal: false,
    ipv4: [{ subnet: `10.${number}.0.0/16`, gateway: `10.${number}.0.1/16`, aux: {} }],
    ipv6: [],
    found: { adopted: false, addresses: [], mtu: 1500 },
    createdAt: 1_760_000_000_000,
    ...different,
  };
}

/** An endpoint's record. */
export function endpoint(number: number, of: number, different: Partial<Endpoint> = {}): Endpoint {
  return {
    id: id(number),
    network: id(of),
    ipv4: `10.${of}.0.${number}/16`,
    mac: "02:42:0a:01:00:02",
    createdAt: 1_760_000_000_000,
    ...different,
  };
}
