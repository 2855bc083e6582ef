import assert from "node:assert/strict";
import type * as z from "zod";
import * as wire from "../../../src/api/wire.ts";

const NETWORK = "43f126c4baedce1e577ea0e1089328b6438c388577f919f3ac8b3ec71df40c88";
const ENDPOINT = "7b1d02b48c07e03cba1fe67fd5a3a4c42d0ef9a0e4ee8a57d0e8dd4a40ad3c11";
const ids = { NetworkID: NETWORK, EndpointID: ENDPOINT };

function complaint(schema: z.ZodType, value: unknown): string {
  const [issue] = schema.safeParse(value).error?.issues ?? [];
  return issue ? `${issue.path.join(".")}: ${issue.message}` : "none";
}

describe("wire", () => {
  it("takes the ids of local and of swarm networks, and nothing else", () => {
    for (const id of [NETWORK, "x0r5k8vtno1iq1z9ccgpw1klh"])
      assert.equal(complaint(wire.NetworkOnly, { NetworkID: id }), "none");
    for (const id of [
      "",
      "../../etc/passwd",
      NETWORK.toUpperCase(),
      `${NETWORK}0`,
      "a b",
      7,
      null,
      undefined,
      [NETWORK],
      `${NETWORK.slice(1)}\n`,
    ])
      assert.match(complaint(wire.NetworkOnly, { NetworkID: id }), /^NetworkID: /, String(id));
  });

  it("reads CreateNetwork as every engine sends it", () => {
    const request = {
      NetworkID: NETWORK,
      Options: {
        "com.docker.network.enable_ipv4": true,
        "com.docker.network.enable_ipv6": true,
        "com.docker.network.generic": { "com.docker.network.driver.mtu": "1400" },
        "com.docker.network.from-the-future": { a: [1] },
      },
      IPv4Data: [
        {
          AddressSpace: "LocalDefault",
          AuxAddresses: { h: "10.1.0.5/16" },
          Gateway: "10.1.5.0/16",
          Pool: "10.1.0.0/16",
        },
      ],
      IPv6Data: [{ AddressSpace: "LocalDefault", Pool: "fd01::/64" }],
      Unheard: 1,
    };
    assert.deepEqual(wire.CreateNetwork.parse(request), {
      NetworkID: NETWORK,
      Options: {
        "com.docker.network.generic": { "com.docker.network.driver.mtu": "1400" },
      },
      IPv4Data: [{ subnet: "10.1.0.0/16", gateway: "10.1.5.0/16", aux: { h: "10.1.0.5/16" } }],
      IPv6Data: [{ subnet: "fd01::/64", aux: {} }],
    });
  });

  it("takes absent and null for an empty list or map", () => {
    for (const request of [
      { NetworkID: NETWORK },
      { NetworkID: NETWORK, Options: null, IPv4Data: null, IPv6Data: null },
      {
        NetworkID: NETWORK,
        Options: { "com.docker.network.generic": null },
        IPv4Data: [{ Pool: "0.0.0.0/0", AuxAddresses: null }],
      },
    ])
      assert.equal(complaint(wire.CreateNetwork, request), "none");
  });

  it("names the field that is wrong", () => {
    const network = (more: object) => complaint(wire.CreateNetwork, { NetworkID: NETWORK, ...more });
    assert.match(network({ IPv4Data: [{ Pool: "10.1.0.0" }] }), /^IPv4Data\.0\.Pool: "10\.1\.0\.0" is not/);
    assert.match(network({ IPv4Data: [{ Pool: "10.1.0.0/16", Gateway: "x" }] }), /^IPv4Data\.0\.Gateway: /);
    assert.match(network({ IPv4Data: [{}] }), /^IPv4Data\.0\.Pool: /);
    assert.match(network({ IPv4Data: {} }), /^IPv4Data: /);
    assert.match(
      network({ Options: { "com.docker.network.generic": { a: 1 } } }),
      /^Options\.com\.docker\.network\.generic\.a: /,
    );
    assert.match(network({ Options: { "com.docker.network.internal": "yes" } }), /internal: /);
    assert.match(
      complaint(wire.CreateEndpoint, { ...ids, Interface: { MacAddress: "02:42" } }),
      /^Interface\.MacAddress: /,
    );
    assert.match(complaint(wire.Join, ids), /^SandboxKey: /);
  });

  it("reads an empty address as none", () => {
    const request = { ...ids, Interface: { Address: "10.1.0.2/16", AddressIPv6: "", MacAddress: "" } };
    assert.deepEqual(wire.CreateEndpoint.parse(request).Interface, {
      Address: "10.1.0.2/16",
      AddressIPv6: undefined,
      MacAddress: undefined,
    });
    for (const absent of [{}, { Interface: null }, { Interface: {} }])
      assert.equal(complaint(wire.CreateEndpoint, { ...ids, ...absent }), "none");
  });

  it("reads port mappings in every form", () => {
    const read = (port: object) =>
      wire.ProgramExternalConnectivity.parse({
        ...ids,
        Options: {
          "com.docker.network.portmap": [
            { Proto: 6, IP: "", Port: 80, HostIP: "", HostPort: 0, HostPortEnd: 0, ...port },
          ],
        },
      }).Options?.["com.docker.network.portmap"]?.[0];
    assert.deepEqual(read({}), {
      protocol: "tcp",
      containerPort: 80,
      hostAddress: "",
      hostPort: 0,
      hostPortEnd: 0,
    });
    assert.deepEqual(read({ Proto: 17, HostIP: "0:0::1", HostPort: 5000, HostPortEnd: 5010 }), {
      protocol: "udp",
      containerPort: 80,
      hostAddress: "::1",
      hostPort: 5000,
      hostPortEnd: 5010,
    });
    assert.equal(read({ Proto: 132 })?.protocol, "sctp");
    for (const wrong of [
      { Proto: 1 },
      { Port: 0 },
      { Port: 65_536 },
      { HostIP: "host" },
      { HostPort: -1 },
      { HostPort: "80" },
      { Port: 1.5 },
    ])
      assert.throws(() => read(wrong), JSON.stringify(wrong));
  });
});
