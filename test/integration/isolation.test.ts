import assert from "node:assert/strict";
import type { EndpointRequest, NetworkRequest } from "../../src/model.ts";
import { FakeSandbox } from "../support/fake-sandbox.ts";
import { ip, mustBeIsolated, plugWire, setSysctl, wipe } from "../support/isolated.ts";
import { PORTS } from "../support/networks.ts";
import { EVERYTHING, type Place, arrivals, leave, placeIn } from "../support/places.ts";
import { id } from "../support/requests.ts";
import { Site } from "../support/site.ts";

const UNPROTECTED = Object.fromEntries(
  [4, 6].map((family) => [`com.docker.network.bridge.gateway_mode_ipv${String(family)}`, "nat-unprotected"]),
);
/** Host ports of what is published, and those of the host's own that nobody publishes. */
const PUBLISHED = { tcp: 8080, udp: 5353 };
const NOT_PING = EVERYTHING.filter((what) => !what.startsWith("ping"));

/** A container, with the sandbox that it is in. */
interface Container extends Place {
  readonly sandbox: FakeSandbox;
}

describe("isolation, tried with packets where nobody else drops any", () => {
  let site: Site;
  let host: Place;
  const containers: Container[] = [];

  before(async () => {
    mustBeIsolated();
    for (const name of ["ipv4/ip_forward", "ipv6/conf/all/forwarding"]) await setSysctl(`net/${name}`, "1");
    for (const which of ["all", "default"]) await setSysctl(`net/ipv4/conf/${which}/rp_filter`, "0");
  });
  beforeEach(async () => {
    site = new Site();
    site.engineBridges = ["docker0"];
    await site.reconcile();
    host = placeIn("/proc/self/ns/net");
  });
  afterEach(async () => {
    assert.deepEqual(await site.reconcile(), {}, "what was made is what the reconciler wants");
    leave(host);
    for (const container of containers.splice(0)) {
      leave(container);
      await container.sandbox.end();
    }
    await site.stop();
    await wipe();
  });

  it("lets host access connect the host with the network, and no other network with it", async () => {
    await plugWire();
    const options = { backend: "macvlan", parent: "wire0", host_access: "on" };
    await site.driver.createNetwork(network(1, { options }));
    await site.driver.createNetwork(network(2, { options: UNPROTECTED }));
    const [lan, bridged, engine] = [await container(1), await container(2), await engineContainer()];
    await site.driver.publish(id(2), id(1002), PORTS);
    // The host is no gateway of the LAN's, but a container can make it its own.
    for (const [family, via] of [
      ["-4", "10.1.0.200"],
      ["-6", "fd01::200"],
    ] as const)
      await lan.sandbox.ip(`${family} route replace default via ${via}`);
    assert.deepEqual(
      await arrivals({
        "host > lan": { from: host, to: addresses(1), at: lan },
        "lan > host": { from: lan, to: ["10.1.0.200", "fd01::200"], at: host },
        "lan > what bridged publishes": {
          ...{ from: lan, to: ["10.1.0.200", "fd01::200"], at: bridged },
          ports: PUBLISHED,
        },
        "host > bridged": { from: host, to: addresses(2), at: bridged },
        "host > engine": { from: host, to: addresses(5), at: engine },
        "bridged > lan": { from: bridged, to: addresses(1), at: lan },
        "engine > lan": { from: engine, to: addresses(1), at: lan },
        "lan > bridged": { from: lan, to: addresses(2), at: bridged },
        "lan > engine": { from: lan, to: addresses(5), at: engine },
      }),
      {
        "host > lan": EVERYTHING,
        "lan > host": EVERYTHING,
        "lan > what bridged publishes": NOT_PING,
        "host > bridged": EVERYTHING,
        "host > engine": EVERYTHING,
        "bridged > lan": [],
        "engine > lan": [],
        "lan > bridged": [],
        "lan > engine": [],
      },
    );
  });

  /** Makes an endpoint on a network of that number, and its container as an engine does. */
  async function container(number: number, endpoint = endpointOf(number)): Promise<Container> {
    await site.driver.createEndpoint(endpoint);
    const sandbox = await FakeSandbox.start();
    await site.driver.join(endpoint.network, endpoint.id, sandbox.path);
    await sandbox.take(endpoint, "eth0");
    return await place(sandbox);
  }

  /** A container of the engine's own. */
  async function engineContainer(): Promise<Container> {
    const sandbox = await FakeSandbox.start();
    await ip(
      "link add docker0 up type bridge",
      `link add port up master docker0 type veth peer name tsc${id(1005).slice(0, 12)}`,
      "address add 10.5.0.1/16 dev docker0",
      "address add fd05::1/64 dev docker0 nodad",
    );
    await sandbox.take(endpointOf(5), "eth0");
    await site.reconcile();
    return await place(sandbox);
  }

  async function place(sandbox: FakeSandbox): Promise<Container> {
    const made = { ...placeIn(sandbox.path), sandbox };
    containers.push(made);
    return made;
  }
});

/** Network 10.NUMBER.0.0/16 and fd0NUMBER::/64. */
function network(number: number, different: Partial<NetworkRequest> = {}): NetworkRequest {
  return {
    ...{ id: id(number), options: {}, internal: false },
    ipv4: [{ subnet: `10.${number}.0.0/16`, gateway: `10.${number}.0.1/16`, aux: {} }],
    ipv6: [{ subnet: `fd0${number}::/64`, gateway: `fd0${number}::1/64`, aux: {} }],
    ...different,
  };
}

/** What is on a network of that number. */
function endpointOf(number: number): EndpointRequest {
  const [v4, v6] = addresses(number);
  return { network: id(number), id: id(1000 + number), ipv4: `${v4}/16`, ipv6: `${v6}/64` };
}

function addresses(number: number): [string, string] {
  return [`10.${number}.0.2`, `fd0${number}::2`];
}
