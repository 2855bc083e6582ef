import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { FAMILIES } from "../../src/ip.ts";
import type { EndpointRequest, NetworkRequest } from "../../src/model.ts";
import { bridgeName } from "../../src/names.ts";
import { run } from "../lab/command.ts";
import { FakeSandbox } from "../support/fake-sandbox.ts";
import { sendForged } from "../support/forged.ts";
import { ip, ipLink, mustBeIsolated, plugWire, setSysctl, wipe } from "../support/isolated.ts";
import { type Place, leave, placeIn } from "../support/places.ts";
import { id } from "../support/requests.ts";
import { Site } from "../support/site.ts";
import { until } from "../support/until.ts";

const NETWORK: NetworkRequest = {
  ...{ id: id(2), options: {}, internal: false },
  ipv4: [{ subnet: "10.2.0.0/16", gateway: "10.2.0.1/16", aux: {} }],
  ipv6: [{ subnet: "fd02::/64", gateway: "fd02::1/64", aux: {} }],
};
const CONTAINER = { network: id(2), id: id(1002), ipv4: "10.2.0.2/16", ipv6: "fd02::2/64" };
/** Somebody on the host's wire. */
const OUTSIDER = { network: id(1), id: id(1001), ipv4: "10.1.0.2/16", ipv6: "fd01::2/64" };
const HOST = { 4: "10.1.0.200", 6: "fd01::200" } as const;

const bare = (endpoint: EndpointRequest, family: 4 | 6) =>
  (endpoint[`ipv${family}`] ?? assert.fail()).replace(/\/.*/, "");

describe("what began while somebody had flushed the rules", () => {
  let site: Site;
  let container: Place & { readonly sandbox: FakeSandbox };
  let outsider: Place & { readonly sandbox: FakeSandbox };
  let server: ChildProcess | undefined;

  before(async () => {
    mustBeIsolated();
    for (const name of ["ipv4/ip_forward", "ipv6/conf/all/forwarding"]) await setSysctl(`net/${name}`, "1");
  });
  beforeEach(async () => {
    site = new Site();
    await plugWire();
    await site.driver.createNetwork(NETWORK);
    await site.driver.createEndpoint(CONTAINER);
    const inside = await FakeSandbox.start();
    await site.driver.join(CONTAINER.network, CONTAINER.id, inside.path);
    await inside.take(CONTAINER, "eth0");
    const outside = await FakeSandbox.start();
    await ip("link set wire1 down", `link set wire1 name tsc${id(1001).slice(0, 12)}`);
    await outside.take(OUTSIDER, "eth0");
    container = { ...placeIn(inside.path), sandbox: inside };
    outsider = { ...placeIn(outside.path), sandbox: outside };
    for (const family of FAMILIES) {
      await inside.ip(`-${family} route replace default via ${family === 4 ? "10.2.0.1" : "fd02::1"}`);
      await outside.ip(
        `-${family} route add ${family === 4 ? "10.2.0.0/16" : "fd02::/64"} via ${HOST[family]}`,
      );
    }
  });
  afterEach(async () => {
    server?.kill();
    for (const place of [container, outsider]) {
      leave(place);
      await place.sandbox.end();
    }
    await site.stop();
    await wipe();
  });

  const flush = async (table: string) => {
    for (const program of ["iptables", "ip6tables"]) await run([program, "-t", table, "-F"]);
  };
  /** Where a datagram comes from that is sent from a port of one place to a port of another; undefined if it does not. */
  const sent = async (from: Place, [port, to]: readonly [number, number], address: string, at: Place) => {
    const family = address.includes(":") ? 6 : 4;
    at[family].hear();
    from[family].say("udp", port, address, to);
    for (let left = 20; left > 0; left -= 1) {
      const heard = at[family].hear().find(({ number }) => number === port);
      if (heard) return heard.source;
      await sleep(10);
    }
    return undefined;
  };

  for (const family of FAMILIES) {
    const [own, other] = [bare(CONTAINER, family), bare(OUTSIDER, family)];

    it(`leaves by the host's address as soon as they are back, IPv${family}`, async () => {
      await until("a way", () => sent(container, [7000, 53], other, outsider));
      assert.equal(await sent(container, [7000, 53], other, outsider), HOST[family]);
      await flush("nat");
      assert.equal(await sent(container, [7001, 53], other, outsider), own);
      await site.reconcile();
      await until("it to be translated", async () => {
        const source = await sent(container, [7001, 53], other, outsider);
        return source === HOST[family];
      });
    });

    it(`comes in no longer as soon as they are back, IPv${family}`, async () => {
      assert.equal(await sent(outsider, [7000, 53], own, container), undefined);
      await flush("mangle");
      await until("a way", () => sent(outsider, [7001, 53], own, container));
      await sent(container, [53, 7001], other, outsider);
      assert.equal(await sent(outsider, [7001, 53], own, container), other);
      await site.reconcile();
      await until("nothing more to come", async () => {
        return (await sent(outsider, [7001, 53], own, container)) === undefined;
      });
    });
  }

  it("reaches the host's loopback no longer as soon as they are back, though it was answered", async () => {
    const script = `
      const socket = require("dgram").createSocket("udp4", (text, { port, address }) => {
        process.stdout.write(text);
        socket.send("answer", port, address);
      });
      socket.bind(9977, "127.0.0.1", () => process.stderr.write("listens"));`;
    const child = (server = spawn(process.execPath, ["-e", script]));
    let heard = "";
    child.stdout.on("data", (text: Buffer) => (heard += text.toString()));
    await once(child.stderr, "data");
    const mac = (await ipLink(bridgeName(NETWORK.id)))?.address ?? assert.fail();
    const send = (text: string) =>
      sendForged(
        container.sandbox.path,
        mac,
        { address: bare(CONTAINER, 4), port: 7000 },
        { address: "127.0.0.1", port: 9977 },
        text,
      );
    await send("closed");
    await flush("mangle");
    await send("open");
    await until("that to be heard", () => heard !== "");
    await send("open");
    await until("that to be heard", () => heard === "openopen");
    await site.reconcile();
    await send("closed");
    // What comes by the loopback itself is heard, and nothing before it was.
    const socket = createSocket("udp4");
    socket.send("own", 9977, "127.0.0.1", () => socket.close());
    await until("that to be heard", () => heard.endsWith("own"));
    assert.equal(heard, "openopenown");
  });
});
