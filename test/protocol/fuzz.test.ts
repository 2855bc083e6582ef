import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { run } from "../lab/command.ts";
import { type Captured, captures } from "../support/captures.ts";
import { Daemon, type Places, placesIn } from "../support/daemon.ts";
import { EngineClient, type Reply, encode, head } from "../support/engine-client.ts";
import { createNetwork, id } from "../support/requests.ts";
import { until } from "../support/until.ts";

/** Passes over an engine's requests: the first ones warm the daemon up. */
const PASSES = { warmUp: 36, counted: 24 };
/** Megabytes by which the daemon may grow in the counted passes. */
const GROWTH_MB = 20;
const CONNECTIONS = 1000;
/** Milliseconds in which a request is answered, whatever else there is. */
const SOON_MS = 1000;

type Json = Readonly<Record<string, unknown>>;

/** What a value is replaced by: anything, or what has been trouble elsewhere. */
const anything = fc.oneof(
  fc.constantFrom<unknown>(
    ...[undefined, null, "", " ", "\0", "../../../etc/passwd", "a".repeat(5000), "__proto__", "ÿ€💥", "%s%n"],
    ...["-1", "0", "10.0.0.0/33", "10.1.0.2/0", "0.0.0.0/0", "::/0", "ff02::1/128", "127.0.0.1/8", "::1/128"],
    ...["ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", id(1), id(2), -1, 0, 65_535, 65_536, 1e308, [], {}],
  ),
  fc.jsonValue(),
);

/** A change to a request: which of its values, counted from the top, and what it becomes. */
const change = fc.record({ place: fc.nat(1000), value: anything });

/** What happens to one request of a pass; most are sent as they were. */
const treatment = fc.oneof(
  { weight: 6, arbitrary: fc.constant({ kind: "plain" as const }) },
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant("changed" as const),
      changes: fc.array(change, { minLength: 1, maxLength: 3 }),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ kind: fc.constant("cut" as const), at: fc.nat(500), by: fc.string() }),
  },
  { weight: 2, arbitrary: fc.constantFrom({ kind: "twice" as const }, { kind: "left out" as const }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("to another" as const), method: fc.nat(1000) }) },
);
type Treatment = typeof treatment extends fc.Arbitrary<infer T> ? T : never;

describe("tsnet daemon, whatever it is sent", () => {
  let dir: string;
  let at: Places;
  let daemon: Daemon;
  let clean: string;

  before(async () => {
    dir = mkdtempSync(join(tmpdir(), "tsnet-test-"));
    at = placesIn(dir);
    daemon = new Daemon(at);
    await daemon.answers(at.socket);
    // A network's first life turns forwarding on for good.
    const engine = await EngineClient.open(at.socket);
    await engine.call("NetworkDriver.CreateNetwork", createNetwork(1));
    await engine.call("NetworkDriver.DeleteNetwork", { NetworkID: id(1) });
    engine.close();
    clean = await host();
  });
  afterEach(async () => {
    assert.equal(daemon.status, undefined, `the daemon ended: ${daemon.errors}`);
    const engine = await EngineClient.open(at.socket);
    assert.equal((await engine.call("Plugin.Activate")).status, 200);
    engine.close();
    assert.equal(await host(), clean, "the host is not as it was");
    assert.equal(daemon.errors, "");
  });
  after(async () => {
    await daemon.kill();
    rmSync(dir, { recursive: true });
  });

  it("answers or refuses requests of engines with anything changed in them, leaves nothing, and stays as large as it was", async function () {
    this.timeout(180_000);
    let [sent, refused] = [0, 0];
    const passes = async (numRuns: number) => {
      await fc.assert(
        fc.asyncProperty(
          fc.constantFrom(...captures()),
          fc.array(treatment, { minLength: 40, maxLength: 80 }),
          async ({ requests }, treatments) => {
            const engine = await EngineClient.open(at.socket);
            const networks = new Set<string>();
            try {
              for (const { method, text } of treated(requests, treatments)) {
                for (const network of idsIn(text)) networks.add(network);
                const reply = await engine.call(method, text);
                assertAnswer(reply, `${method} ${text}`);
                sent += 1;
                if (reply.text.includes('"Err"')) refused += 1;
              }
              for (const NetworkID of networks)
                assertAnswer(
                  await engine.call("NetworkDriver.DeleteNetwork", { NetworkID }),
                  "DeleteNetwork",
                );
            } finally {
              engine.close();
            }
            assert.equal(await networksLeft(), 0);
          },
        ),
        { numRuns, endOnFailure: true },
      );
    };
    await passes(PASSES.warmUp);
    const [before, open] = [memoryMegabytes(), descriptors()];
    await passes(PASSES.counted);
    const after = memoryMegabytes();
    console.log(
      `        ${String(sent)} requests, ${String(refused)} refused; ${before.toFixed(0)} MB, then ${after.toFixed(0)} MB`,
    );
    // Else it was no more than a replay, or nothing got through to be done.
    assert.ok(
      refused > sent / 10 && refused < (sent * 9) / 10,
      `${String(refused)} of ${String(sent)} refused`,
    );
    assert.ok(after - before < GROWTH_MB, `it grew by ${(after - before).toFixed(0)} MB`);
    await until("it has no more open than before", () => descriptors() <= open);
  });

  it("closes a connection that speaks anything else", async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ minLength: 1, maxLength: 400 }), async (bytes) => {
        const socket = connect(at.socket);
        const ended = new Promise((resolve) => socket.on("error", resolve).on("close", resolve));
        socket.resume().end(Buffer.concat([bytes, Buffer.from("\r\n\r\n")]));
        await ended;
      }),
      { numRuns: 200 },
    );
  });

  it("serves others while connections stall, send byte by byte, or break in the middle", async () => {
    const body = encode(createNetwork(1));
    const whole = head("NetworkDriver.CreateNetwork", Buffer.byteLength(body)) + body;
    const open = descriptors();
    const sockets = Array.from({ length: 150 }, (_, index) => {
      const socket = connect(at.socket).on("error", () => undefined);
      // Stalled at every place of the head and of the body, but never whole.
      socket.resume().write(whole.slice(0, 1 + Math.floor(((whole.length - 1) * index) / 150)));
      return socket;
    });
    const slow = await EngineClient.open(at.socket);
    const activate = head("Plugin.Activate", 0);
    for (let index = 0; index < activate.length; index += 1) {
      slow.send(activate.charAt(index));
      if (index % 10 > 0) continue;
      sockets[index]?.destroy();
      await answersSoon();
    }
    assert.equal((await slow.reply()).status, 200);
    slow.close();
    for (const socket of sockets) socket.destroy();
    assert.equal(await networksLeft(), 0, "a request that never came whole was done");
    await until("they are closed", () => descriptors() <= open);
  });

  it(`answers on ${String(CONNECTIONS)} connections at once`, async () => {
    const open = descriptors();
    // None is taken meanwhile, as when the daemon is busy: they have to wait.
    daemon.signal("SIGSTOP");
    const opening = Promise.all(Array.from({ length: CONNECTIONS }, () => EngineClient.open(at.socket)));
    const clients = await opening.finally(() => {
      daemon.signal("SIGCONT");
    });
    await answersSoon();
    const replies = await Promise.all(clients.map((client) => client.call("Plugin.Activate")));
    assert.ok(replies.every(({ status }) => status === 200));
    // The same request from all of them is done once.
    const made = await Promise.all(
      clients.slice(0, 100).map((client) => client.call("NetworkDriver.CreateNetwork", createNetwork(1))),
    );
    assert.deepEqual(new Set(made.map(({ text }) => text)), new Set(["{}"]));
    const [first] = clients;
    assert.deepEqual((await first?.call("NetworkDriver.DeleteNetwork", { NetworkID: id(1) }))?.body, {});
    for (const client of clients) client.close();
    await until("they are closed", () => descriptors() <= open);
  });

  async function answersSoon(): Promise<void> {
    const start = performance.now();
    const engine = await EngineClient.open(at.socket);
    assert.equal((await engine.call("Plugin.Activate")).status, 200);
    engine.close();
    const took = performance.now() - start;
    assert.ok(took < SOON_MS, `it took ${took.toFixed(0)} ms`);
  }

  async function networksLeft(): Promise<number> {
    const engine = await EngineClient.open(at.socket);
    engine.send("GET /tsnet/status HTTP/1.1\r\nHost: x\r\n\r\n");
    const { body } = await engine.reply();
    engine.close();
    return (body as { networks: number }).networks;
  }

  /** Links, addresses, routes, neighbours and rules of the daemon's namespace. */
  async function host(): Promise<string> {
    const inside = ["nsenter", `--net=/proc/${String(daemon.pid)}/ns/net`];
    const say = async (command: string) => (await run([...inside, "sh", "-c", command])).stdout;
    await until("links on their way out are gone", async () => !(await say("ip link show group 29812")));
    // A table that was used once stays, empty, and so does forwarding with its policy.
    const rules = ["iptables-save", "ip6tables-save"].map((save) => `${save} | grep -e '^-A' -e TSNET`);
    const links = ["link", "addr"].map((what) => `ip -o ${what} | sed 's/^[0-9]*//'`);
    return await say([...links, "ip route", "ip -6 route", "ip neigh", ...rules, "true"].join("; "));
  }

  function memoryMegabytes(): number {
    const status = readFileSync(`/proc/${String(daemon.pid)}/status`, "utf8");
    return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]) / 1024;
  }

  function descriptors(): number {
    return readdirSync(`/proc/${String(daemon.pid)}/fd`).length;
  }
});

/** A reply as the protocol has it. "internal" would be a failure that nobody thought of. */
function assertAnswer({ status, body }: Reply, what: string): void {
  const said = `${what.slice(0, 2000)} → ${String(status)} ${JSON.stringify(body)}`;
  assert.ok([200, 400, 404, 413].includes(status), said);
  const { Err, Error, Code } = body as { Err?: string; Error?: string; Code?: string };
  if (status === 200 && Err === undefined) return;
  assert.equal(typeof Err, "string", said);
  assert.equal(Err, Error, said);
  assert.doesNotMatch(Err ?? "", /\n/, said);
  assert.match(Code ?? "", /^[a-z-]+$/, said);
  assert.notEqual(Code, "internal", said);
}

/** One pass over an engine's requests in their order. */
function treated(
  requests: readonly Captured[],
  treatments: readonly Treatment[],
): { method: string; text: string }[] {
  return requests.flatMap(({ method, body }, index) => {
    const how = treatments[index % treatments.length] ?? { kind: "plain" };
    const text = body ? encode(known(body)) : "";
    switch (how.kind) {
      case "plain":
        return [{ method, text }];
      case "changed":
        return [{ method, text: body ? encode(how.changes.reduce(changed, known(body))) : "{}" }];
      case "cut":
        return [{ method, text: text.slice(0, how.at) + how.by + text.slice(how.at + how.by.length) }];
      case "twice":
        return [
          { method, text },
          { method, text },
        ];
      case "left out":
        return [];
      case "to another":
        return [{ method: requests[how.method % requests.length]?.method ?? method, text }];
    }
  });
}

/** The networks of the captures have an option that tsnet does not know. */
function known(body: Json): Json {
  return JSON.parse(JSON.stringify(body).replace(/,?"k1":"v1"/, "")) as Json;
}

/** The same with one value, anywhere in it, changed. */
function changed(body: Json, { place, value }: { place: number; value: unknown }): Json {
  const places: { of: Record<string, unknown>; key: string }[] = [];
  const walk = (of: Record<string, unknown>): void => {
    for (const [key, inner] of Object.entries(of)) {
      places.push({ of, key });
      if (typeof inner === "object" && inner !== null) walk(inner as Record<string, unknown>);
    }
  };
  const copy = structuredClone(body) as Record<string, unknown>;
  walk(copy);
  const chosen = places[place % places.length];
  if (chosen) chosen.of[chosen.key] = value;
  return copy;
}

/** Ids of networks that may have come to be. */
function idsIn(text: string): string[] {
  return [...text.matchAll(/"NetworkID":"([a-z0-9]{12,64})"/g)].map(([, found = ""]) => found);
}
