import { EngineClient } from "./engine-client.ts";
import { id } from "./requests.ts";

/** First host port: each container publishes one. */
const FIRST_PORT = 10_000;
/** Second byte of the subnets of the networks, 256 to each. */
const SUBNETS = 200;
/** Keeps the ids of endpoints apart from those of networks, which are numbered from 1. */
const ENDPOINTS = 0x100000;

/** A container's attachment by numbers: the network's, its own, that no other container has, and its address's last. */
export interface Attachment {
  readonly network: number;
  readonly number: number;
  readonly address: number;
}

/** One connection to a daemon, over which it is asked for networks and attachments of many containers as an engine asks. */
export class CrowdClient {
  readonly #client: EngineClient;

  private constructor(client: EngineClient) {
    this.#client = client;
  }

  static async open(socket: string): Promise<CrowdClient> {
    return new CrowdClient(await EngineClient.open(socket));
  }

  close(): void {
    this.#client.close();
  }

  /** Makes a network with room for 253 containers. @returns milliseconds */
  async createNetwork(number: number): Promise<number> {
    const subnet = subnetOf(number);
    return await this.#call("CreateNetwork", {
      NetworkID: id(number),
      Options: { "com.docker.network.enable_ipv4": true, "com.docker.network.generic": {} },
      IPv4Data: [{ AddressSpace: "LocalDefault", Gateway: `${subnet}.1/24`, Pool: `${subnet}.0/24` }],
      IPv6Data: [],
    });
  }

  async deleteNetwork(number: number): Promise<number> {
    return await this.#call("DeleteNetwork", { NetworkID: id(number) });
  }

  /** What starts a container: CreateEndpoint, Join, and the port it publishes. @returns milliseconds */
  async attach(attachment: Attachment): Promise<number> {
    const ids = idsOf(attachment);
    const { network, number, address } = attachment;
    const Interface = {
      Address: `${subnetOf(network)}.${String(address)}/24`,
      AddressIPv6: "",
      MacAddress: "",
    };
    const port = FIRST_PORT + number;
    const mapping = { Proto: 6, IP: "", Port: 80, HostIP: "", HostPort: port, HostPortEnd: port };
    const start = performance.now();
    await this.#call("CreateEndpoint", { ...ids, Interface, Options: {} });
    await this.#call("Join", { ...ids, SandboxKey: `/run/docker/netns/${String(number)}`, Options: {} });
    await this.#call("ProgramExternalConnectivity", {
      ...ids,
      Options: { "com.docker.network.portmap": [mapping] },
    });
    return performance.now() - start;
  }

  /** What stops it. @returns milliseconds */
  async detach(attachment: Attachment): Promise<number> {
    const ids = idsOf(attachment);
    const start = performance.now();
    for (const method of ["RevokeExternalConnectivity", "Leave", "DeleteEndpoint"])
      await this.#call(method, ids);
    return performance.now() - start;
  }

  async #call(method: string, body: object): Promise<number> {
    const start = performance.now();
    const { status, text } = await this.#client.call(`NetworkDriver.${method}`, body);
    const ms = performance.now() - start;
    if (status !== 200 || text.includes('"Err"')) throw new Error(`${method}: ${String(status)} ${text}`);
    return ms;
  }
}

/** Containers on networks 1 to `networks` in turn, numbered from `first` on. Of one network 253 in a row have addresses of their own. */
export function attachments(first: number, count: number, networks: number): Attachment[] {
  return Array.from({ length: count }, (_, index) => attachment(first + index, networks));
}

/** The one with that number. */
export function attachment(number: number, networks: number): Attachment {
  return {
    network: 1 + (number % networks),
    number,
    address: 2 + (Math.floor(number / networks) % 253),
  };
}

/** Does something with each item, so many at a time. @returns what came of each, in the items' order */
export async function together<T, R>(
  socket: string,
  many: number,
  items: readonly T[],
  act: (client: CrowdClient, item: T) => Promise<R>,
): Promise<R[]> {
  const results = new Array<R>(items.length);
  const rest = items.entries();
  const clients = await Promise.all(Array.from({ length: many }, () => CrowdClient.open(socket)));
  try {
    await Promise.all(
      clients.map(async (client) => {
        for (const [index, item] of rest) results[index] = await act(client, item);
      }),
    );
  } finally {
    for (const client of clients) client.close();
  }
  return results;
}

function idsOf({ network, number }: Attachment): { NetworkID: string; EndpointID: string } {
  return { NetworkID: id(network), EndpointID: id(ENDPOINTS + number) };
}

function subnetOf(network: number): string {
  return `10.${String(SUBNETS + (network >> 8))}.${String(network & 255)}`;
}
