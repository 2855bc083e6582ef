import assert from "node:assert/strict";
import type { BridgeOptions } from "../../../src/backends/bridge-options.ts";
import { BridgeBackend } from "../../../src/backends/bridge.ts";
import type { Publisher } from "../../../src/backends/publisher.ts";
import { InvalidError } from "../../../src/errors.ts";
import { Firewall } from "../../../src/firewall/firewall.ts";
import type { Host } from "../../../src/kernel/host.ts";
import type { Endpoint, Network } from "../../../src/model.ts";
import type { State } from "../../../src/store/state.ts";
import { ALL_KNOWN } from "../../support/known.ts";
import { NETWORKS, endpointOf } from "../../support/networks.ts";

const nowhere: unknown = undefined;
interface Found {
  readonly adopted: boolean;
  readonly addresses: readonly string[];
  readonly mtu: number;
  readonly uplinkPackets: number;
}

const ADOPTED = {
  adopted: true,
  addresses: ["10.1.0.1/16"],
  mtu: 1500,
  uplinkPackets: 0,
  routeLocalnet: "0",
};
const MADE: Found = { adopted: false, addresses: [], mtu: 1500, uplinkPackets: 0 };

describe("BridgeBackend", () => {
  // Plans and replies are made without a look at the host.
  const backend = new BridgeBackend(
    nowhere as Host,
    new Firewall(),
    nowhere as Publisher,
    {},
    nowhere as State,
    ALL_KNOWN,
  );
  const network = (kind: string, found: Found = MADE): Network<BridgeOptions, Found> => {
    const { options, ...request } = NETWORKS[kind] ?? assert.fail();
    const pools = { ipv4: [...request.ipv4], ipv6: [...request.ipv6] };
    return {
      ...request,
      ...pools,
      backend: "bridge",
      options: backend.options.parse(options),
      found,
      createdAt: 0,
    };
  };
  const endpoint = (kind: string, more: Partial<Endpoint> = {}): Endpoint => ({
    ...endpointOf(NETWORKS[kind] ?? assert.fail()),
    ...{ mac: "02:42:0a:01:00:02", createdAt: 0 },
    ...more,
  });
  const plan = (kind: string, found?: Found) => backend.network(network(kind, found)).map(({ what }) => what);

  it("plans a network from the bridge up, and lets in what its rules keep out after them", () => {
    assert.deepEqual(plan("dual stack"), [
      "sysctl net/ipv4/ip_forward=1",
      "sysctl net/ipv6/conf/all/forwarding=1",
      "link ts-000001aaaaaa type bridge",
      "sysctl net/ipv6/conf/ts-000001aaaaaa/accept_ra=0",
      "sysctl net/ipv6/conf/ts-000001aaaaaa/accept_dad=0",
      "sysctl net/ipv6/conf/ts-000001aaaaaa/disable_ipv6=0",
      "sysctl net/ipv4/conf/ts-000001aaaaaa/forwarding=1",
      "sysctl net/ipv6/conf/ts-000001aaaaaa/forwarding=1",
      "address 10.1.0.1/16 dev ts-000001aaaaaa",
      "address fd01::1/64 dev ts-000001aaaaaa",
      `rules of network ${network("dual stack").id}`,
      "sysctl net/ipv4/conf/ts-000001aaaaaa/route_localnet=1",
    ]);
  });

  it("plans no forwarding for an internal network, and no addresses for an isolated one", () => {
    assert.doesNotMatch(plan("internal").join("\n"), /forward|route_localnet/);
    assert.match(plan("internal").join("\n"), /^address 10\.1\.0\.1/m);
    assert.doesNotMatch(plan("isolated").join("\n"), /address/);
  });

  it("plans only what is missing on an adopted bridge, and no bridge", () => {
    const steps = plan("on an adopted bridge", ADOPTED);
    assert.ok(steps.includes("link own-br up"));
    assert.doesNotMatch(steps.join("\n"), /type bridge|address 10\.1\.0\.1|accept_ra/);
    assert.ok(steps.includes("address fd01::1/64 dev own-br"));
  });

  it("plans for a family that the network has no addresses of only that it stays out", () => {
    const steps = plan("IPv4 with two subnets").join("\n");
    assert.doesNotMatch(steps, /IPv6|all\/forwarding|fd01/);
    assert.match(steps, /disable_ipv6=1/);
    assert.match(steps, /address 10\.9\.0\.1\/24/);
    assert.doesNotMatch(plan("IPv6 only").join("\n"), /ip_forward|route_localnet|10\.1/);
    const rules = (found: Found) =>
      backend.rules(network("IPv6 only", found), []).flatMap(({ family, name, spec }) => {
        return family === 4 ? `${name} ${spec}` : [];
      });
    const [bridge, comment] = ["ts-000001aaaaaa", "-m comment --comment tsnet-000001aaaaaa"];
    assert.deepEqual(rules(MADE), [`TSNET-ARRIVING -i ${bridge} ${comment} -j DROP`]);
    assert.deepEqual(rules(ADOPTED), [`TSNET-BRIDGES -i ${bridge} ! -o ${bridge} ${comment} -j TSNET-TO`]);
  });

  it("plans a pair for an endpoint, and nothing published by itself", () => {
    const steps = backend.endpoint(network("dual stack"), endpoint("dual stack")).map(({ what }) => what);
    assert.deepEqual(steps, [
      "flows of 10.1.0.2 and fd01::2",
      "link tsh000002aaaaaa type veth peer tsc000002aaaaaa",
    ]);
  });

  it("tells the engine the gateway of the endpoint's own subnet, per family", () => {
    const link = { name: "tsc000002aaaaaa", prefix: "eth" };
    const join = (kind: string, more?: Partial<Endpoint>) =>
      backend.join(network(kind), endpoint(kind, more));
    assert.deepEqual(join("dual stack"), { link, gateway: "10.1.0.1", gatewayIPv6: "fd01::1" });
    assert.deepEqual(join("IPv4 with two subnets", { ipv4: "10.9.0.7/24" }), { link, gateway: "10.9.0.1" });
    // Engine 20.10 counts an IPv4 gateway only, and adds docker_gwbridge without one.
    assert.deepEqual(join("IPv6 only"), { link, gatewayIPv6: "fd01::1", withoutGateway: true });
    // Two keys at most that an internal network may have: any gateway would be a way out.
    assert.deepEqual(join("internal"), { link });
  });

  it("prefers a gateway that --aux-address names as the engine's own driver does", () => {
    const routed = network("dual stack");
    const [pool = assert.fail()] = routed.ipv4;
    const other = {
      ...routed,
      ipv4: [{ ...pool, aux: { DefaultGatewayIPv4: "10.1.0.254/16", host: "10.1.0.5/16" } }],
    };
    assert.equal(backend.join(other, endpoint("dual stack")).gateway, "10.1.0.254");
  });

  it("needs no gateway reserved for an isolated family", () => {
    const options = backend.options.parse({ "com.docker.network.bridge.gateway_mode_ipv4": "isolated" });
    assert.deepEqual(backend.gatewayNeed(options), { skipIPv4: true, skipIPv6: false });
  });

  it("refuses an isolated network that is not internal", async () => {
    const open = { ...network("isolated"), internal: false };
    await assert.rejects(backend.survey(open, []), InvalidError);
  });
});
