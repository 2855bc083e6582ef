import assert from "node:assert/strict";
import { type Question, ask } from "./answers.ts";
import type { Site, Subnets } from "./site.ts";

/**
 * Port 8080 of the host, TCP and UDP, leads to container `web` of a network: from the neighbour, from the host by
 * loopback, and from a container of the network, `web` itself or another.
 */
export async function mustBeReached(site: Site, net: Subnets, insider: string): Promise<void> {
  const both = (addresses: readonly string[]) =>
    addresses.flatMap((address): Question[] => [
      { address, port: 8080 },
      { address, port: 8080, protocol: "udp" },
    ]);
  const own = both(Object.values(site.address));
  const seenAs = (v4: string, v6: string) => [v4, v4, v6, v6].map((seen) => `web ${seen}`);
  const { v4, v6 } = site.neighbourAddress;
  assert.deepEqual(await ask(site.neighbour, own), seenAs(v4, v6), "from the neighbour");
  const gateway = seenAs(net.ip(1), net.ip6(1));
  assert.deepEqual(await ask(site, both(["127.0.0.1", "::1"])), gateway, "from the host");
  assert.deepEqual(await ask(site.container(insider), own), gateway, `from ${insider}`);
}
