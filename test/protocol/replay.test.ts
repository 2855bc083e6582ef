import assert from "node:assert/strict";
import { type Captured, captures } from "../support/captures.ts";
import { EngineClient, type Reply, encode } from "../support/engine-client.ts";
import { Plugin } from "../support/plugin.ts";

interface IpamData {
  readonly Pool: string;
  readonly Gateway?: string;
}

/** What PROTOCOL.md 2 and 3.3 say the reply must be, worked out from the requests alone. */
class Expectation {
  readonly #networks = new Map<
    string,
    { internal: boolean; v4: readonly IpamData[]; v6: readonly IpamData[] }
  >();
  readonly #endpoints = new Map<string, { v4: string; v6: string }>();

  of({ method, body = {} }: Captured): unknown {
    const [network, endpoint] = [String(body["NetworkID"]), String(body["EndpointID"])];
    const options = (body["Options"] ?? {}) as Record<string, unknown>;
    switch (method) {
      case "Plugin.Activate":
        return { Implements: ["NetworkDriver"] };
      case "NetworkDriver.GetCapabilities":
        return { Scope: "local", ConnectivityScope: "local", GwAllocChecker: true };
      case "NetworkDriver.CreateNetwork":
        this.#networks.set(network, {
          internal: options["com.docker.network.internal"] === true,
          v4: body["IPv4Data"] as IpamData[],
          v6: body["IPv6Data"] as IpamData[],
        });
        return {};
      case "NetworkDriver.CreateEndpoint": {
        const { Address, AddressIPv6, MacAddress } = body["Interface"] as Record<string, string>;
        this.#endpoints.set(endpoint, { v4: Address ?? "", v6: AddressIPv6 ?? "" });
        return MacAddress ? {} : { Interface: { MacAddress: macOf(Address ?? "") } };
      }
      case "NetworkDriver.EndpointOperInfo":
        return { Value: {} };
      case "NetworkDriver.Join":
        return this.#join(network, endpoint);
      default:
        return {};
    }
  }

  #join(networkId: string, id: string): unknown {
    const link = { InterfaceName: { SrcName: `tsc${id.slice(0, 12)}`, DstPrefix: "eth" } };
    const [network, endpoint] = [this.#networks.get(networkId), this.#endpoints.get(id)];
    assert.ok(network && endpoint);
    if (network.internal) return link;
    const gateway = endpoint.v4 && network.v4[0]?.Gateway?.split("/")[0];
    const gatewayIPv6 = endpoint.v6 && network.v6[0]?.Gateway?.split("/")[0];
    return {
      ...link,
      ...(gateway ? { Gateway: gateway } : { DisableGatewayService: true }),
      ...(gatewayIPv6 ? { GatewayIPv6: gatewayIPv6 } : {}),
    };
  }
}

/** 02:42 and the address; without one, anything that begins so. */
function macOf(address: string): string | RegExp {
  const octets = address.split("/")[0]?.split(".") ?? [];
  if (octets.length !== 4) return /^02:42(:[0-9a-f]{2}){4}$/;
  return ["02", "42", ...octets.map((octet) => Number(octet).toString(16).padStart(2, "0"))].join(":");
}

function assertReply({ status, headers, body }: Reply, expected: unknown, what: string): void {
  assert.equal(status, 200, `${what}: ${JSON.stringify(body)}`);
  assert.match(headers["content-type"] ?? "", /^application\/json/);
  const mac = (expected as { Interface?: { MacAddress?: unknown } }).Interface?.MacAddress;
  if (mac instanceof RegExp)
    assert.match((body as { Interface: { MacAddress: string } }).Interface.MacAddress, mac);
  else assert.deepEqual(body, expected, what);
}

for (const { version, requests } of captures())
  describe(`the requests of engine ${version}`, () => {
    let plugin: Plugin;
    let engine: EngineClient;

    beforeEach(async () => {
      plugin = await Plugin.start();
      engine = await EngineClient.open(plugin.socket);
    });
    afterEach(async () => {
      engine.close();
      await plugin.stop();
    });

    it("are sent here byte for byte as they were captured", () => {
      for (const { body, length } of requests)
        assert.equal(body === undefined ? 0 : Buffer.byteLength(encode(body)), length);
      assert.ok(requests.length > 50);
    });

    it("are answered exactly as the protocol says, on one connection, and nothing is left", async () => {
      const expectation = new Expectation();
      for (const [index, request] of requests.entries()) {
        const reply = await engine.call(request.method, request.body, request.host);
        assertReply(reply, expectation.of(request), `request ${index}, ${request.method}`);
      }
      assert.deepEqual(plugin.contents(), { records: {}, things: [] });
      assert.ok(plugin.world.events.length > 20);
    });

    it("are answered the same when each is sent twice, and the second time nothing changes", async () => {
      const expectation = new Expectation();
      for (const [index, request] of requests.entries()) {
        const expected = expectation.of(request);
        const what = `request ${index}, ${request.method}`;
        assertReply(await engine.call(request.method, request.body, request.host), expected, what);
        const [contents, changes] = [plugin.contents(), plugin.world.events.length];
        assertReply(await engine.call(request.method, request.body, request.host), expected, `${what} again`);
        assert.deepEqual(plugin.contents(), contents, `${what} again`);
        assert.equal(plugin.world.events.length, changes, `${what} again`);
      }
    });

    it("are answered the same when each is sent twice at once, and done once", async () => {
      const other = await EngineClient.open(plugin.socket);
      const alone = await Plugin.start();
      const its = await EngineClient.open(alone.socket);
      try {
        const expectation = new Expectation();
        for (const [index, request] of requests.entries()) {
          const { method, body, host } = request;
          const expected = expectation.of(request);
          const replies = await Promise.all([engine, other].map((client) => client.call(method, body, host)));
          for (const reply of replies)
            assertReply(reply, expected, `request ${index}, ${method}, twice at once`);
          await its.call(method, body, host);
        }
        assert.deepEqual(plugin.contents(), alone.contents());
        assert.deepEqual(plugin.world.events, alone.world.events);
      } finally {
        other.close();
        its.close();
        await alone.stop();
      }
    });

    it("are refused with 400 when their body was lost, and then nothing changes", async () => {
      // The engine's retries have no body (PROTOCOL.md 1.4), and any 200 would be success to it.
      for (const { method, body, host } of requests) {
        if (body === undefined) continue;
        const contents = plugin.contents();
        const changes = plugin.world.events.length;
        const lost = await engine.call(method, undefined, host);
        assert.equal(lost.status, 400, method);
        const message = `${method.replace("NetworkDriver.", "")}: empty request body; nothing was done`;
        assert.deepEqual(lost.body, { Err: message, Error: message, Code: "invalid" });
        assert.deepEqual(plugin.contents(), contents, method);
        assert.equal(plugin.world.events.length, changes, method);
        assert.equal((await engine.call(method, body, host)).status, 200, method);
      }
    });
  });
