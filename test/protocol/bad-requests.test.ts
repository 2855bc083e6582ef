import assert from "node:assert/strict";
import { captures } from "../support/captures.ts";
import { EngineClient, type Reply, encode, head } from "../support/engine-client.ts";
import { Plugin } from "../support/plugin.ts";
import { createEndpoint, createNetwork, endpoint, id, join } from "../support/requests.ts";
import { until } from "../support/until.ts";

/** What each field cannot be; undefined is left out of the request. */
const WRONG: Readonly<Record<string, readonly unknown[]>> = {
  NetworkID: [7, true, null, "not this", "", ["x"], { x: 1 }, undefined],
  EndpointID: [7, true, null, "not this", "", ["x"], { x: 1 }, undefined],
  Options: [7, true, "x", ["x"]],
  Interface: [7, true, "x", ["x"]],
  IPv4Data: [7, true, "x", ["x"], { x: 1 }, [{}]],
  IPv6Data: [7, true, "x", ["x"], { x: 1 }, [{}]],
  SandboxKey: [7, true, null, "", ["x"], { x: 1 }, undefined],
  DiscoveryType: [true, null, "x", ["x"], { x: 1 }, undefined],
};

/** Every method that takes a body, with the fields that are read as they should be. */
const REQUESTS: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  GwAllocCheck: { Options: { "com.docker.network.generic": {} } },
  AllocateNetwork: { NetworkID: id(1), Options: {} },
  FreeNetwork: { NetworkID: id(1) },
  CreateNetwork: { ...createNetwork(2) },
  DeleteNetwork: { NetworkID: id(9) },
  CreateEndpoint: { ...endpoint(1, 2), Interface: { Address: "10.1.0.2/16" } },
  DeleteEndpoint: endpoint(1, 9),
  EndpointOperInfo: endpoint(1, 1),
  Join: { ...endpoint(1, 1), SandboxKey: "/run/docker/netns/2c1207509e31" },
  Leave: endpoint(1, 9),
  ProgramExternalConnectivity: { ...endpoint(1, 1), Options: {} },
  RevokeExternalConnectivity: endpoint(1, 1),
  DiscoverNew: { DiscoveryType: 1, DiscoveryData: { Address: "192.0.2.1", BindAddress: "", Self: false } },
  DiscoverDelete: { DiscoveryType: 1, DiscoveryData: { Address: "192.0.2.1", BindAddress: "", Self: false } },
};

interface Refusal {
  readonly Err: string;
  readonly Error: string;
  readonly Code: string;
}

/** One clear line, where NetworkDriver and IpamDriver look for it. */
function assertRefused({ status, body }: Reply, expected: number, pattern: RegExp, what: string): void {
  const { Err, Error, Code } = body as Refusal;
  assert.equal(status, expected, `${what}: ${JSON.stringify(body)}`);
  assert.match(Err, pattern, what);
  assert.equal(Error, Err);
  assert.match(Code, /^[a-z-]+$/);
  assert.doesNotMatch(Err, /\n/);
  assert.ok(Err.length < 1000, `${what}: ${Err.length} characters`);
}

describe("a request that cannot be read", () => {
  let plugin: Plugin;
  let engine: EngineClient;
  let contents: unknown;

  before(async () => {
    plugin = await Plugin.start();
    engine = await EngineClient.open(plugin.socket);
    await engine.call("NetworkDriver.CreateNetwork", createNetwork(1));
    await engine.call("NetworkDriver.CreateEndpoint", createEndpoint(1, 1));
    contents = plugin.contents();
  });
  afterEach(async () => {
    assert.deepEqual(plugin.contents(), contents, "something was changed");
    assert.equal(
      (await engine.call("Plugin.Activate")).status,
      200,
      "the connection or the server is broken",
    );
  });
  after(async () => {
    engine.close();
    await plugin.stop();
  });

  for (const [method, right] of Object.entries(REQUESTS)) {
    const call = (body: unknown) => engine.call(`NetworkDriver.${method}`, body);

    it(`${method} is refused with 400 when its body is empty, is space only or is no JSON object`, async () => {
      for (const body of [
        "",
        "\n",
        "   ",
        "{",
        '{"NetworkID":',
        "null",
        '"text"',
        "7",
        "true",
        "[]",
        "[{}]",
        "{}}",
        "\u0000",
        encode(right).slice(0, -3),
      ])
        // What is no JSON at all has no method's name in its complaint.
        assertRefused(await call(body), 400, /^\S/, `${method} ${JSON.stringify(body)}`);
    });

    it(`${method} is refused with 400 that names the field, when a field has the wrong type or is missing`, async () => {
      for (const [field, values] of Object.entries(WRONG)) {
        if (!(field in right)) continue;
        for (const wrong of values) {
          const reply = await call({ ...right, [field]: wrong });
          const what = `${method} ${field}=${JSON.stringify(wrong)}`;
          assertRefused(reply, 400, new RegExp(`^${method}\\.${field}`), what);
        }
      }
    });

    it(`${method} is refused when it has 10 MB, and the daemon goes on`, async () => {
      const big = encode({ ...right, Filler: "x".repeat(10 << 20) });
      assertRefused(await call(big), 413, /too large/, method);
    });
  }

  it("names the field deep inside", async () => {
    const pool = { AddressSpace: "LocalDefault", Pool: "10.2.0.0/33" };
    const wrong = { ...createNetwork(2), IPv4Data: [{ ...pool, Pool: "10.2.0.0/16" }, pool] };
    const reply = await engine.call("NetworkDriver.CreateNetwork", wrong);
    assertRefused(
      reply,
      400,
      /^CreateNetwork\.IPv4Data\.1\.Pool: "10\.2\.0\.0\/33": prefix length 33/,
      "Pool",
    );
    const mac = {
      ...endpoint(1, 2),
      Interface: { Address: "10.1.0.2/16", AddressIPv6: "", MacAddress: "02:42" },
    };
    assertRefused(
      await engine.call("NetworkDriver.CreateEndpoint", mac),
      400,
      /^CreateEndpoint\.Interface\.MacAddress: must be/,
      "MAC",
    );
    const port = { Proto: 6, IP: "", Port: 80, HostIP: "", HostPort: 99_999, HostPortEnd: 99_999 };
    const publish = { ...endpoint(1, 1), Options: { "com.docker.network.portmap": [port] } };
    assertRefused(
      await engine.call("NetworkDriver.ProgramExternalConnectivity", publish),
      400,
      /portmap\.0\.HostPort/,
      "HostPort",
    );
  });

  it("is not read when its length was not told in full before the connection broke", async () => {
    const client = await EngineClient.open(plugin.socket);
    const body = encode(createNetwork(2));
    const logged = plugin.lines.length;
    client.send(head("NetworkDriver.CreateNetwork", Buffer.byteLength(body)) + body.slice(0, 50));
    client.close();
    await until("it is logged", () => plugin.lines.slice(logged).some(({ level }) => level === "warn"));
  });

  it("that is no HTTP is answered with 400 and the connection closed", async () => {
    const client = await EngineClient.open(plugin.socket);
    client.send("hello\r\n\r\n");
    assert.equal((await client.reply()).status, 400);
    client.close();
  });

  it("for a method or a path there is none of gets 404", async () => {
    for (const path of [
      "NetworkDriver.Nothing",
      "IpamDriver.RequestPool",
      "",
      "NetworkDriver.CreateNetwork/x",
      "..%2f..%2fetc",
      "networkdriver.createnetworks",
      "%",
    ]) {
      const reply = await engine.call(path, createNetwork(2));
      assert.ok(reply.status === 404 || (path === "%" && reply.status === 400), `${path}: ${reply.status}`);
      assertRefused(reply, reply.status, /^\S/, path);
    }
    const client = await EngineClient.open(plugin.socket);
    client.send(head("NetworkDriver.GetCapabilities", 0).replace("POST", "GET"));
    assertRefused(await client.reply(), 404, /GET/, "GET");
    client.close();
  });
});

describe("a request for what is not there, or not as asked", () => {
  let plugin: Plugin;
  let engine: EngineClient;

  beforeEach(async () => {
    plugin = await Plugin.start();
    engine = await EngineClient.open(plugin.socket);
    await engine.call("NetworkDriver.CreateNetwork", createNetwork(1));
    await engine.call("NetworkDriver.CreateEndpoint", createEndpoint(1, 1));
  });
  afterEach(async () => {
    engine.close();
    await plugin.stop();
  });

  it("succeeds when it deletes, leaves, revokes or asks about an unknown id", async () => {
    const contents = plugin.contents();
    for (const [method, body] of [
      ["DeleteNetwork", { NetworkID: id(9) }],
      ["FreeNetwork", { NetworkID: id(9) }],
      ...["DeleteEndpoint", "Leave", "RevokeExternalConnectivity", "EndpointOperInfo"].flatMap((name) => [
        [name, endpoint(1, 9)] as const,
        [name, endpoint(9, 9)] as const,
      ]),
    ] as const) {
      const reply = await engine.call(`NetworkDriver.${method}`, body);
      assert.equal(reply.status, 200);
      assert.deepEqual(reply.body, method === "EndpointOperInfo" ? { Value: {} } : {}, method);
    }
    assert.deepEqual(plugin.contents(), contents);
  });

  it("gets 200 with Err when it needs a network or an endpoint that is unknown, and changes nothing", async () => {
    const contents = plugin.contents();
    const call = (method: string, body: unknown) => engine.call(`NetworkDriver.${method}`, body);
    assertRefused(
      await call("CreateEndpoint", createEndpoint(9, 1)),
      200,
      /^CreateEndpoint: no record of network 000009/,
      "CreateEndpoint",
    );
    assertRefused(await call("Join", join(9, 1)), 200, /^Join: no record of network 000009/, "Join");
    assertRefused(await call("Join", join(1, 9)), 200, /^Join: no endpoint 0003f1/, "Join");
    assert.deepEqual(plugin.contents(), contents);
  });

  it("gets 200 with Err for options that cannot be, and nothing is made", async () => {
    const contents = plugin.contents();
    for (const [options, pattern] of [
      [{ unheard: "1" }, /^CreateNetwork: unknown option unheard; backend bridge takes /],
      [{ ["__proto__"]: "1" }, /^CreateNetwork: unknown option __proto__; backend bridge takes /],
      [
        { "com.docker.network.driver.mtu": "big" },
        /^CreateNetwork: option com\.docker\.network\.driver\.mtu is "big", but must be/,
      ],
      [{ backend: "none" }, /^CreateNetwork: unknown backend "none"/],
    ] as const)
      assertRefused(
        await engine.call("NetworkDriver.CreateNetwork", createNetwork(2, options)),
        200,
        pattern,
        JSON.stringify(options),
      );
    assert.deepEqual(plugin.contents(), contents);
  });

  it("gets 200 with Err when it is there already with other settings, and that stays as it is", async () => {
    const contents = plugin.contents();
    const network = {
      ...createNetwork(1),
      IPv4Data: [{ AddressSpace: "LocalDefault", Pool: "10.200.0.0/16" }],
    };
    assertRefused(
      await engine.call("NetworkDriver.CreateNetwork", network),
      200,
      /^CreateNetwork: network 000001\S* exists with other settings/,
      "network",
    );
    const other = {
      ...createEndpoint(1, 1),
      Interface: { Address: "10.1.0.77/16", AddressIPv6: "", MacAddress: "" },
    };
    assertRefused(
      await engine.call("NetworkDriver.CreateEndpoint", other),
      200,
      /^CreateEndpoint: endpoint \S+ exists with other addresses/,
      "endpoint",
    );
    assert.deepEqual(plugin.contents(), contents);
  });

  it("is done without its unknown fields, at every depth", async () => {
    await engine.call("NetworkDriver.DeleteNetwork", { NetworkID: id(1) });
    const [capture] = captures().filter(({ version }) => version.startsWith("28"));
    const plain = await Plugin.start();
    const its = await EngineClient.open(plain.socket);
    try {
      for (const { method, body } of capture?.requests ?? []) {
        const reply = await engine.call(method, body && withUnknown(body));
        assert.deepEqual(reply.body, (await its.call(method, body)).body, method);
      }
      assert.deepEqual(plugin.world.events.slice(-plain.world.events.length), plain.world.events);
    } finally {
      its.close();
      await plain.stop();
    }
  });

  it("that fails at a step leaves nothing and says which step; sent again, it succeeds", async () => {
    const contents = plugin.contents();
    for (const [method, body, call] of [
      ["CreateNetwork", createNetwork(2), "apply rules of 000002"],
      ["CreateEndpoint", createEndpoint(1, 2), "apply link of 0003ea"],
    ] as const)
      for (const moment of ["before", "after"] as const) {
        plugin.world.faults.set(call, moment);
        assertRefused(
          await engine.call(`NetworkDriver.${method}`, body),
          200,
          new RegExp(`^${method}: ${call}: fault ${moment}$`),
          method,
        );
        assert.deepEqual(plugin.contents(), contents);
        plugin.world.faults.clear();
      }
    assert.deepEqual((await engine.call("NetworkDriver.CreateNetwork", createNetwork(2))).body, {});
  });
});

/** The same with one more field in every object whose keys are the protocol's and not the user's. */
function withUnknown(value: unknown, key = ""): unknown {
  if (Array.isArray(value)) return value.map((item) => withUnknown(item));
  if (typeof value !== "object" || value === null) return value;
  const fields = Object.entries(value).map(([name, field]) => [name, withUnknown(field, name)] as const);
  const users = key === "com.docker.network.generic" || key === "AuxAddresses";
  return { ...Object.fromEntries(fields), ...(users ? {} : { FromTheFuture: { a: [1, null] } }) };
}
