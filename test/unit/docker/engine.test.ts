import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { type Server, type ServerResponse, createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Engine } from "../../../src/docker/engine.ts";
import { TsnetError } from "../../../src/errors.ts";

/** What an engine answers, as 28.5 does. */
const ANSWERS: Readonly<Record<string, readonly [number, unknown]>> = {
  "/networks": [
    200,
    [
      {
        Id: "a".repeat(64),
        Name: "bridge",
        Driver: "bridge",
        Options: { "com.docker.network.bridge.name": "docker0" },
      },
      { Id: "b".repeat(64), Name: "mine", Driver: "bridge", Options: null },
      { Id: "c".repeat(64), Name: "ours", Driver: "tsnet", Options: {} },
    ],
  ],
  "/networks/c": [
    200,
    { Id: "c", Name: "ours", Driver: "tsnet", Containers: { f: { EndpointID: "e", Name: "größe" } } },
  ],
  "/networks/b": [200, { Id: "b", Name: "mine", Driver: "bridge" }],
  "/version": [200, { Version: "28.5.2+dfsg4" }],
};

describe("Engine", () => {
  let dir: string;
  let server: Server;
  let engine: Engine;
  /** Streams of events that go on. */
  const streams: ServerResponse[] = [];
  let refusing = false;

  before(async () => {
    dir = mkdtempSync(join(tmpdir(), "tsnet-test-"));
    server = createServer(({ url = "" }, response) => {
      if (url.startsWith("/events")) {
        response.writeHead(refusing ? 403 : 200).flushHeaders();
        streams.push(response);
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

  it("names each network's driver, and the bridge of its own driver's", async () => {
    assert.deepEqual(
      (await engine.networks()).map(({ driver, bridge }) => [driver, bridge]),
      [
        ["bridge", "docker0"],
        ["bridge", `br-${"b".repeat(12)}`],
        ["tsnet", undefined],
      ],
    );
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
      new Engine(join(dir, "none.sock")).networks(),
      (error) => error instanceof TsnetError && error.message.startsWith("GET /networks: connect ENOENT "),
    );
  });

  it("tells of an engine's end", async () => {
    const end = await engine.live(new AbortController().signal);
    assert.equal(end.aborted, false);
    const ended = once(end, "abort");
    streams.pop()?.destroy();
    await ended;
    await assert.rejects(
      new Engine(join(dir, "none.sock")).live(new AbortController().signal),
      (error) => error instanceof TsnetError && error.message.startsWith("GET /events: connect ENOENT "),
    );
  });

  it("tells of no end where a proxy refuses the stream, and keeps none when told to stop", async () => {
    refusing = true;
    const end = await engine.live(new AbortController().signal);
    streams.pop()?.destroy();
    refusing = false;
    const stopping = new AbortController();
    await engine.live(stopping.signal);
    const closed = once(streams.pop() ?? assert.fail(), "close");
    stopping.abort();
    await closed;
    assert.equal(end.aborted, false);
  });
});
