import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { type Server, createServer } from "node:http";
import type { Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Engine } from "../../../src/docker/engine.ts";
import { TsnetError } from "../../../src/errors.ts";
import { StoppedClock } from "../../support/clock.ts";

/** What an engine answers, as 28.5 does. */
const ANSWERS: Readonly<Record<string, readonly [number, unknown]>> = {
  "/networks": [
    200,
    [
      {
        Id: "a".repeat(64),
        Name: "bridge",
        Driver: "bridge",
        Internal: false,
        Options: { "com.docker.network.bridge.name": "docker0" },
      },
      {
        Id: "b".repeat(64),
        Name: "mine",
        Driver: "bridge",
        Internal: true,
        Options: { "com.docker.network.bridge.name": "" },
      },
      { Id: "c".repeat(64), Name: "ours", Driver: "tsnet", Internal: false, Options: null },
      { Id: "0".repeat(64), Name: "none", Driver: "null", Internal: false, Options: {} },
    ],
  ],
  "/networks/c": [
    200,
    { Id: "c", Name: "ours", Driver: "tsnet", Containers: { f: { EndpointID: "e", Name: "größe" } } },
  ],
  "/networks/b": [200, { Id: "b", Name: "mine", Driver: "bridge", Containers: null }],
  "/networks/d": [200, { Id: "d", Name: "of something else", Driver: "bridge" }],
  "/version": [200, { Version: "28.5.2+dfsg4" }],
};

describe("Engine", () => {
  let dir: string;
  let server: Server;
  let engine: Engine;
  /** On which it was asked whether it is there. */
  const connections: Socket[] = [];
  /** Whether it keeps them. */
  let keeps = true;

  before(async () => {
    dir = mkdtempSync(join(tmpdir(), "tsnet-test-"));
    server = createServer(({ url = "" }, response) => {
      if (url === "/_ping") {
        connections.push(response.socket ?? assert.fail());
        response.writeHead(200, keeps ? {} : { Connection: "close" }).end("OK");
        return;
      }
      const [status, body] = ANSWERS[url] ?? [404, { message: `network ${url.slice(10)} not found` }];
      response.writeHead(status, { "Content-Type": "application/json" });
      const bytes = Buffer.from(JSON.stringify(body));
      // In two parts, cut within a letter.
      const middle = bytes.indexOf(0xc3) + 1;
      response.write(bytes.subarray(0, middle));
      setImmediate(() => response.end(bytes.subarray(middle)));
    });
    const path = join(dir, "docker.sock");
    await new Promise<void>((resolve) => server.listen(path, resolve));
    engine = new Engine(path);
  });
  after(() => {
    server.close();
    server.closeAllConnections();
    rmSync(dir, { recursive: true });
  });

  it("names the bridges of its own driver's networks, and tells whether each is internal", async () => {
    assert.deepEqual(await engine.bridges(), [
      { name: "docker0", internal: false },
      { name: `br-${"b".repeat(12)}`, internal: true },
    ]);
  });

  it("tells which engine it is by its network none", async () => {
    const { engine: it, networks } = await engine.inventory();
    assert.equal(it, "0".repeat(64));
    assert.deepEqual([...networks].map((id) => id[0]).sort(), ["0", "a", "b", "c"]);
    assert.equal(await engine.knowsNetwork("c".repeat(64)), true);
    assert.equal(await engine.knowsNetwork("d".repeat(64)), false);
  });

  it("does not believe what no engine says", async () => {
    let says: string | Buffer = "";
    const other = createServer((_, response) => response.end(says));
    const path = join(dir, "strange.sock");
    await new Promise<void>((resolve) => other.listen(path, resolve));
    for (const [body, why] of [
      ["[]", /the engine's own networks are not among them/],
      ["null", /no answer of an engine's: Invalid input/],
      ["[null]", /no answer of an engine's: 0: Invalid input/],
      ['[{"Id":"a"}]', /no answer of an engine's: 0.Driver: Invalid input/],
      ["<html>", /Unexpected token/],
      [Buffer.alloc((1 << 24) + 1, " "), /an answer of more than 16777216 characters/],
    ] as const) {
      says = body;
      await assert.rejects(new Engine(path).inventory(), why);
    }
    other.close();
    await assert.rejects(
      engine.endpoints("d"),
      /^TsnetError: GET \/networks\/d: no answer of an engine's: Containers/,
    );
  });

  it("waits for no answer that never ends, nor for any once it is closed", async () => {
    const drips = new Set<NodeJS.Timeout>();
    const slow = createServer((_, response) => {
      drips.add(setInterval(() => response.write(" "), 10));
    });
    const path = join(dir, "slow.sock");
    await new Promise<void>((resolve) => slow.listen(path, resolve));
    const clock = new StoppedClock();
    try {
      const asked = assert.rejects(new Engine(path).bridges(), /no answer within 10000 ms/);
      await clock.pass(10_000);
      await asked;
    } finally {
      clock.release();
    }
    const closing = new Engine(path);
    const asked = assert.rejects(closing.bridges(), /tsnet is stopping/);
    closing.close();
    await asked;
    await assert.rejects(closing.bridges(), /tsnet is stopping/);
    for (const drip of drips) clearInterval(drip);
    slow.close();
    slow.closeAllConnections();
  });

  it("names the endpoints of a network, and the containers by endpoint", async () => {
    assert.deepEqual(await engine.endpoints("c"), new Set(["e"]));
    assert.deepEqual(await engine.names("c"), { network: "ours", containers: new Map([["e", "größe"]]) });
    assert.deepEqual(await engine.endpoints("b"), new Set());
    assert.equal(await engine.version(), "28.5.2+dfsg4");
  });

  it("fails in one line with what was asked and what the engine says", async () => {
    await assert.rejects(engine.endpoints("x"), { message: "GET /networks/x: network x not found" });
    await assert.rejects(
      new Engine(join(dir, "none.sock")).bridges(),
      (error) => error instanceof TsnetError && error.message.startsWith("GET /networks: connect ENOENT "),
    );
  });

  it("tells of an engine's end", async () => {
    const end = await engine.live(new AbortController().signal);
    await sleep(20);
    assert.equal(end.aborted, false);
    const ended = once(end, "abort");
    connections.pop()?.destroy();
    await ended;
    await assert.rejects(
      new Engine(join(dir, "none.sock")).live(new AbortController().signal),
      (error) => error instanceof TsnetError && error.message.startsWith("GET /_ping: connect ENOENT "),
    );
  });

  it("lets an engine that is told to stop end at once", async () => {
    const other = createServer((_, response) => response.end("OK"));
    const path = join(dir, "other.sock");
    await new Promise<void>((resolve) => other.listen(path, resolve));
    const end = await new Engine(path).live(new AbortController().signal);
    const ended = once(end, "abort");
    // It waits for requests under way, and closes connections on which there is none.
    const closed = once(other, "close");
    other.close();
    await Promise.all([ended, closed]);
  });

  it("tells of no end where a proxy does not keep the connection, and keeps none when told to stop", async () => {
    keeps = false;
    const end = await engine.live(new AbortController().signal);
    keeps = true;
    const stopping = new AbortController();
    await engine.live(stopping.signal);
    const closed = once(connections.pop() ?? assert.fail(), "close");
    stopping.abort();
    await closed;
    assert.equal(end.aborted, false);
  });
});
