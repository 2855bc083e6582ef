import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  closeSync,
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  rmdirSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { SOCK } from "../../src/kernel/libc.ts";
import { run } from "../lab/command.ts";
import { Daemon, type Places } from "../support/daemon.ts";
import { EngineClient, encode, head } from "../support/engine-client.ts";
import { createNetwork, id } from "../support/requests.ts";
import { boundSocket, listeningSocket } from "../support/unix-socket.ts";
import { until } from "../support/until.ts";

/** Writes out what comes to a datagram socket of that path (unix(7)). */
const RECEIVE = `
  my $socket = IO::Socket::UNIX->new(Type => SOCK_DGRAM, Local => $ARGV[0]) or die $!;
  $socket->recv(my $text, 100);
  print $text;`;

describe("tsnet daemon", () => {
  let dir: string;
  let daemons: Daemon[];
  const places = (name: string): Places => ({ socket: join(dir, `${name}.sock`), stateDir: join(dir, name) });
  const start = (...how: ConstructorParameters<typeof Daemon>) => {
    const daemon = new Daemon(...how);
    daemons.push(daemon);
    return daemon;
  };
  const activate = async (socket: string) => {
    const client = await EngineClient.open(socket);
    const { body } = await client.call("Plugin.Activate");
    client.close();
    return body;
  };

  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), "tsnet-test-"));
    daemons = [];
  });
  afterEach(async () => {
    for (const daemon of daemons) await daemon.kill();
    rmSync(dir, { recursive: true });
  });

  it("listens on a socket that only its owner may open", async () => {
    const at = places("one");
    await start(at).answers(at.socket);
    const { mode, uid } = statSync(at.socket);
    assert.equal((mode & 0o777).toString(8), "600");
    assert.equal(uid, process.getuid?.());
    assert.equal((statSync(at.stateDir).mode & 0o777).toString(8), "700");
    assert.deepEqual(await activate(at.socket), { Implements: ["NetworkDriver"] });
  });

  it("makes the directory of its socket", async () => {
    const at = { ...places("one"), socket: join(dir, "run/docker/plugins/tsnet.sock") };
    await start(at).answers(at.socket);
  });

  it("replaces the socket of one that was killed", async () => {
    const at = places("one");
    const first = start(at);
    await first.answers(at.socket);
    await first.kill();
    assert.ok(existsSync(at.socket), "nothing is left to be replaced");
    await start(at).answers(at.socket);
  });

  it("listens anew where somebody deletes its socket, replaces it by a dead one, or deletes the directory, and goes on with who is connected", async () => {
    const at = { ...places("one"), socket: join(dir, "plugins/tsnet.sock") };
    const daemon = start(at);
    await daemon.answers(at.socket);
    const before = await EngineClient.open(at.socket);
    const dead = join(dir, "dead.sock");
    const ended = createServer().listen(`${dead}.first`);
    await once(ended, "listening");
    linkSync(`${dead}.first`, dead);
    ended.close();
    for (const lose of [
      () => {
        rmSync(at.socket);
      },
      () => {
        renameSync(dead, at.socket);
      },
      () => {
        rmSync(join(dir, "plugins"), { recursive: true });
      },
    ]) {
      lose();
      await until("its socket is there again", () => activate(at.socket).catch(() => undefined), {
        timeoutMs: 5000,
      });
      assert.equal((statSync(at.socket).mode & 0o777).toString(8), "600");
      assert.deepEqual(await activate(at.socket), { Implements: ["NetworkDriver"] });
    }
    assert.equal((await before.call("Plugin.Activate")).status, 200);
    before.close();
    daemon.signal("SIGTERM");
    assert.equal(await daemon.ended(), 0);
    assert.equal(existsSync(at.socket), false);
  });

  it("says once why it cannot listen anew, and does as soon as it can", async () => {
    const at = { ...places("one"), socket: join(dir, "plugins/tsnet.sock") };
    const daemon = start(at);
    await daemon.answers(at.socket);
    rmSync(at.socket);
    mkdirSync(at.socket);
    const told = () =>
      daemon.out.split("\n").filter((line) => line.includes("the socket is gone and not back"));
    await until("it says so", () => told().length > 0, { timeoutMs: 5000 });
    await sleep(2500);
    assert.deepEqual(
      told().map((line) => (JSON.parse(line) as { reason: string }).reason),
      [`${at.socket} is there already and is no socket; choose another --socket`],
    );
    rmdirSync(at.socket);
    await until("it listens", () => activate(at.socket).catch(() => undefined), { timeoutMs: 5000 });
  });

  it("refuses a socket that somebody answers on, and says who that is in one line", async () => {
    const at = places("one");
    const server = `require("net").createServer().listen("${at.socket}"); setTimeout(() => process.exit(), 20_000)`;
    const other = `"${process.execPath}" -e '${server}' >/dev/null 2>&1 & while [ ! -S ${at.socket} ]; do sleep 0.05; done`;
    const daemon = start(at, { prepare: other });
    assert.equal(await daemon.ended(), 1);
    const [, pid] =
      new RegExp(`^tsnet: socket ${at.socket} is in use by process (\\d+) \\(node\\).*\\n$`).exec(
        daemon.errors,
      ) ?? assert.fail(daemon.errors);
    process.kill(Number(pid));
  });

  for (const [what, open] of Object.entries<(path: string) => number>({
    "whose queue is full": (path) => listeningSocket(path, 0),
    "that takes no streams": (path) => boundSocket(path, SOCK.DGRAM),
  }))
    it(`refuses somebody's socket ${what}, and leaves it there`, async () => {
      const at = places("one");
      const fd = open(at.socket);
      const waiting = connect(at.socket).on("error", () => undefined);
      const daemon = start(at);
      assert.equal(await daemon.ended(), 1);
      assert.match(daemon.errors, new RegExp(`^tsnet: socket ${at.socket} is in use by .*\n$`));
      assert.ok(existsSync(at.socket));
      waiting.destroy();
      closeSync(fd);
    });

  it("refuses a network that another daemon has, and says which in one line", async () => {
    const at = places("one");
    const first = start(at);
    await first.answers(at.socket);
    const second = start(places("two"), { beside: first });
    assert.equal(await second.ended(), 1);
    assert.match(
      second.errors,
      new RegExp(
        `^tsnet: another tsnet daemon has this host's network, process ${first.pid} \\(node\\).*\\n$`,
      ),
    );
    assert.equal(existsSync(places("two").socket), false);
    await start(places("three")).answers(places("three").socket);
  });

  it("starts where the name by which daemons keep apart is another user's", async () => {
    const at = places("one");
    const server = `require("net").createServer().listen("\\0tsnet"); setTimeout(() => process.exit(), 20_000)`;
    const other = `setpriv --reuid=65534 --clear-groups "${process.execPath}" -e '${server}' >/dev/null 2>&1 & echo $! >${join(dir, "other")}`;
    const daemon = start(at, {
      prepare: `${other}; while ! grep -q @tsnet /proc/net/unix; do sleep 0.05; done`,
    });
    try {
      await daemon.answers(at.socket);
    } finally {
      process.kill(Number(readFileSync(join(dir, "other"), "utf8")));
    }
  });

  it("refuses a socket's path where there is something else, which stays", async () => {
    const at = places("one");
    writeFileSync(at.socket, "mine");
    const daemon = start(at);
    assert.equal(await daemon.ended(), 1);
    assert.match(
      daemon.errors,
      /^tsnet: .*one\.sock is there already and is no socket; choose another --socket\n$/,
    );
    assert.equal(readFileSync(at.socket, "utf8"), "mine");
  });

  it("refuses a link in its socket's place, which stays, and says what to give instead", async () => {
    const at = places("one");
    symlinkSync("elsewhere.sock", at.socket);
    const daemon = start(at);
    assert.equal(await daemon.ended(), 1);
    assert.match(
      daemon.errors,
      /^tsnet: \S+one\.sock is a symbolic link; give the path that it leads to as --socket\n$/,
    );
    assert.equal(readlinkSync(at.socket), "elsewhere.sock");
  });

  it("goes on while there is no room for its log, and ends when told", async () => {
    const at = places("one");
    const daemon = start(at, { prepare: "exec >/dev/full" });
    await daemon.answers(at.socket);
    const client = await EngineClient.open(at.socket);
    for (let times = 0; times < 20; times += 1)
      assert.equal((await client.call("NetworkDriver.GetCapabilities")).status, 200);
    client.close();
    daemon.signal("SIGTERM");
    assert.equal(await daemon.ended(), 0);
    assert.equal(daemon.errors, "");
  });

  it("goes on while nobody reads its log, and what was logged is there for who reads on", async () => {
    const at = places("one");
    const log = join(dir, "log");
    // The daemon itself keeps the other end open.
    const full = 'head -c 65000 /dev/zero | tr "\\0" "\\n"';
    const daemon = start(at, { prepare: `mkfifo ${log}; exec 3<>${log} >${log}; ${full}` });
    await daemon.answers(at.socket);
    const client = await EngineClient.open(at.socket);
    const calls = 50;
    for (let times = 0; times < calls; times += 1)
      assert.equal((await client.call("NetworkDriver.GetCapabilities")).status, 200);
    client.close();
    const reader = spawn("cat", [log], { stdio: ["ignore", "pipe", "inherit"] });
    let text = "";
    reader.stdout.setEncoding("utf8").on("data", (chunk: string) => (text += chunk));
    const told = () => text.split("\n").filter((line) => line.includes("GetCapabilities")).length;
    await until("the lines to come", () => told() === calls);
    const closed = once(reader, "close");
    daemon.signal("SIGTERM");
    assert.equal(await daemon.ended(), 0);
    await closed;
    const lines = text.split("\n").filter(Boolean);
    for (const line of lines) JSON.parse(line);
    assert.match(lines.at(-1) ?? "", /"msg":"stopped"/);
  });

  it("ends when told while nobody reads its log", async () => {
    const at = places("one");
    const log = join(dir, "log");
    const daemon = start(at, { prepare: `mkfifo ${log}; exec 3<>${log} >${log}; head -c 65536 /dev/zero` });
    await daemon.answers(at.socket);
    daemon.signal("SIGTERM");
    assert.equal(await daemon.ended(), 0);
  });

  it("refuses a state directory that another daemon has, and says which in one line", async () => {
    const at = places("one");
    const first = start(at);
    await first.answers(at.socket);
    const second = start({ ...places("two"), stateDir: at.stateDir });
    assert.equal(await second.ended(), 1);
    assert.match(
      second.errors,
      new RegExp(`^tsnet: state directory ${at.stateDir} is in use by .* process ${first.pid}\\n$`),
    );
    assert.equal(existsSync(places("two").socket), false);
    await first.kill();
    await start({ ...places("two"), stateDir: at.stateDir }).answers(places("two").socket);
  });

  for (const [what, prepare, pattern] of [
    [
      "damaged",
      (path: string) => `mkdir ${path}; echo spoiled >${path}/tsnet.mdb`,
      /^tsnet: store \S+tsnet\.mdb is damaged: .+; keep a copy and delete it, then `tsnet store import`/,
    ],
    [
      "a file",
      (path: string) => `echo >${path}`,
      /^tsnet: state directory \S+: not a directory; choose another --state-dir\n/,
    ],
    [
      "read-only",
      (path: string) => `mkdir ${path}; mount -t tmpfs -o ro none ${path}`,
      /^tsnet: state directory \S+: its file system is read-only; remount it or choose another --state-dir\n/,
    ],
    [
      "full",
      (path: string) => `mkdir ${path}; mount -t tmpfs -o size=64k none ${path}`,
      /^tsnet: store \S+: no space left on its file system; free some and try again\n/,
    ],
  ] as const)
    it(`refuses a state directory that is ${what}, in one line`, async () => {
      const at = places("one");
      const refused = start(at, { prepare: prepare(at.stateDir) });
      assert.equal(await refused.ended(), 1);
      assert.match(refused.errors, pattern);
      assert.match(refused.errors, /^[^\n]+\n$/);
      assert.equal(refused.out, "");
      assert.equal(existsSync(at.socket), false);
    });

  it("takes over the socket that systemd listens on, with the requests that wait there", async () => {
    const at = places("one");
    const systemds = join(dir, "systemd.sock");
    const fd = listeningSocket(systemds);
    const early = await EngineClient.open(systemds);
    const reply = early.call("Plugin.Activate");
    const daemon = start(at, { listening: fd });
    closeSync(fd);
    assert.deepEqual((await reply).body, { Implements: ["NetworkDriver"] });
    early.close();
    assert.equal(existsSync(at.socket), false, "it listens on its own as well");
    const { stdout } = await run(["ss", "-Hlx", "src", `unix:${systemds}`]);
    assert.match(stdout, /LISTEN\s+\d+\s+4096\s/);
    daemon.signal("SIGTERM");
    assert.equal(await daemon.ended(), 0);
    assert.ok(existsSync(systemds), "systemd's socket file was removed");
  });

  it("makes the file of systemd's socket anew where somebody deletes it, before or after it has started", async () => {
    const systemds = join(dir, "systemd.sock");
    const fd = listeningSocket(systemds);
    rmSync(systemds);
    const daemon = start(places("one"), { listening: fd });
    closeSync(fd);
    await daemon.answers(systemds);
    assert.equal((statSync(systemds).mode & 0o777).toString(8), "600");
    rmSync(systemds);
    await until("it is there again", () => activate(systemds).catch(() => undefined), { timeoutMs: 5000 });
    await daemon.kill();
    const another = join(dir, "another.sock");
    const passed = listeningSocket(another);
    const next = start(places("two"), { listening: passed });
    closeSync(passed);
    await next.answers(another);
    rmSync(another);
    await until("it is there again", () => activate(another).catch(() => undefined), { timeoutMs: 5000 });
  });

  it("opens no debugger when it is asked to by a signal", async () => {
    const at = places("one");
    const daemon = start(at);
    await daemon.answers(at.socket);
    daemon.signal("SIGUSR1");
    // It is asked in the order that it was sent.
    await activate(at.socket);
    await sleep(500);
    const { stdout } = await run(["nsenter", `--net=/proc/${daemon.pid}/ns/net`, "ss", "-Hltn"]);
    assert.equal(stdout, "");
    assert.deepEqual(await activate(at.socket), { Implements: ["NetworkDriver"] });
  });

  it("refuses a socket of systemd's that others may speak to, whatever waits there", async () => {
    const systemds = join(dir, "systemd.sock");
    const fd = listeningSocket(systemds);
    chmodSync(systemds, 0o666);
    const early = await EngineClient.open(systemds);
    const fate = early.call("Plugin.Activate").then(
      () => "answered",
      () => "refused",
    );
    const daemon = start(places("one"), { listening: fd });
    closeSync(fd);
    assert.equal(await daemon.ended(), 1);
    assert.match(
      daemon.errors,
      /^tsnet: socket \S+ .* open to other users; its unit needs SocketMode=0600\n$/,
    );
    assert.equal(await fate, "refused");
  });

  it("tells the service manager that it is ready, once it answers", async () => {
    const at = places("one");
    const notified = join(dir, "notify.sock");
    const told = spawn("perl", ["-MIO::Socket::UNIX", "-e", RECEIVE, notified]);
    await until("somebody to be told", () => existsSync(notified));
    const daemon = start(at, { prepare: `export NOTIFY_SOCKET=${notified}` });
    const [text] = (await once(told.stdout, "data")) as [Buffer];
    assert.equal(text.toString(), "READY=1");
    const client = await EngineClient.open(at.socket);
    assert.equal((await client.call("Plugin.Activate")).status, 200);
    client.close();
    await daemon.kill();
  });

  for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const)
    it(`stops listening at ${signal}, finishes the request in flight and ends`, async () => {
      const at = places("one");
      const daemon = start(at);
      await daemon.answers(at.socket);
      const [client, idle] = [await EngineClient.open(at.socket), await EngineClient.open(at.socket)];
      await idle.call("Plugin.Activate");
      const body = encode(createNetwork(1));
      const request = head("NetworkDriver.CreateNetwork", Buffer.byteLength(body));
      client.send(request.replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n"));
      // By this answer the request has begun.
      assert.equal((await client.reply()).status, 100);
      daemon.signal(signal);
      await until("the socket is gone", async () =>
        EngineClient.open(at.socket).then(
          (open) => (open.close(), false),
          () => true,
        ),
      );
      assert.equal(daemon.status, undefined);
      client.send(body);
      assert.deepEqual((await client.reply()).body, {});
      assert.equal(await daemon.ended(), 0, daemon.errors);
      assert.equal(existsSync(at.socket), false);
      idle.close();
      client.close();
      // What was answered was kept: the next one knows the network, with those settings and no others.
      await start(at).answers(at.socket);
      const again = await EngineClient.open(at.socket);
      assert.deepEqual((await again.call("NetworkDriver.CreateNetwork", createNetwork(1))).body, {});
      const other = { ...createNetwork(1), IPv4Data: [] };
      assert.match(
        (await again.call("NetworkDriver.CreateNetwork", other)).text,
        /exists with other settings/,
      );
      assert.deepEqual((await again.call("NetworkDriver.DeleteNetwork", { NetworkID: id(1) })).body, {});
      again.close();
    });

  it("logs one line for a request, and every step before it at level debug only", async () => {
    const lines: Record<string, Record<string, unknown>[]> = {};
    for (const logLevel of ["info", "debug"]) {
      const at = places(logLevel);
      const daemon = start(at, { logLevel });
      await daemon.answers(at.socket);
      const client = await EngineClient.open(at.socket);
      await until("it has started", () => daemon.out.includes("host is as recorded"));
      const from = daemon.out.length;
      await client.call("NetworkDriver.CreateNetwork", createNetwork(1));
      await client.call("NetworkDriver.CreateNetwork", createNetwork(1));
      await client.call("NetworkDriver.CreateNetwork", {});
      client.close();
      await until("the last is logged", () => daemon.out.endsWith('"request failed"}\n'));
      const logged = daemon.out.slice(from).trimEnd().split("\n");
      lines[logLevel] = logged.map((line) => JSON.parse(line) as Record<string, unknown>);
    }
    const { info = [], debug = [] } = lines;
    const brief = (line: Record<string, unknown>) => [line["level"], line["msg"], line["method"]];
    const requests = [
      [30, "request", "CreateNetwork"],
      [30, "request", "CreateNetwork"],
      [40, "request failed", "CreateNetwork"],
    ];
    assert.deepEqual(info.map(brief), requests);
    assert.deepEqual([info[0]?.["network"], typeof info[0]?.["ms"]], [id(1), "number"]);
    assert.match(String(info[2]?.["reason"]), /^CreateNetwork\.NetworkID: /);
    const steps = debug.slice(0, -requests.length);
    assert.deepEqual(debug.slice(steps.length).map(brief), requests);
    assert.equal(steps[0]?.["step"], `record network ${id(1)}`);
    assert.ok(steps.length > 5 && steps.every(({ level, msg }) => level === 20 && msg === "applied"));
  });

  it("ends properly when told to the moment it listens", async () => {
    const at = places("one");
    const daemon = start(at);
    // It still puts the host right then.
    await until("it listens", () => daemon.out.includes("listening"));
    daemon.signal("SIGTERM");
    assert.equal(await daemon.ended(), 0, daemon.out);
  });

  it("ends properly when told to by both signals", async () => {
    const at = places("one");
    const daemon = start(at);
    await daemon.answers(at.socket);
    daemon.signal("SIGINT");
    daemon.signal("SIGTERM");
    assert.equal(await daemon.ended(), 0, daemon.errors);
  });

  it("ends at once when nothing is in flight", async () => {
    const at = places("one");
    const daemon = start(at);
    await daemon.answers(at.socket);
    const [used, unused] = [await EngineClient.open(at.socket), await EngineClient.open(at.socket)];
    await used.call("Plugin.Activate");
    const before = performance.now();
    daemon.signal("SIGTERM");
    assert.equal(await daemon.ended(), 0);
    assert.ok(performance.now() - before < 2000);
    used.close();
    // An engine that asks several things at once opens more connections than it needs (net/http's Transport).
    unused.close();
  });
});
