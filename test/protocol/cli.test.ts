import assert from "node:assert/strict";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { VERSION } from "../../src/store/migration.ts";
import { currentBoot, replaceStore } from "../../src/store/state-directory.ts";
import { type CommandOptions, type CommandResult, run } from "../lab/command.ts";
import { Daemon, MAIN, type Places, placesIn } from "../support/daemon.ts";
import { EngineClient } from "../support/engine-client.ts";
import { createEndpoint, createNetwork, endpoint, id } from "../support/requests.ts";

const PORT = { Proto: 6, IP: "", Port: 80, HostIP: "0.0.0.0", HostPort: 8080, HostPortEnd: 8080 };

function tsnet(args: readonly string[], how: CommandOptions = {}): Promise<CommandResult> {
  return run([process.execPath, MAIN, ...args], { allowFailure: true, ...how });
}

/** What is refused says why in one line, and nothing else. */
function assertRefused({ code, stdout, stderr }: CommandResult, pattern: RegExp): void {
  assert.match(stderr, pattern);
  assert.match(stderr, /^[^\n]+\n$/);
  assert.equal(stdout, "");
  assert.equal(code, 1);
}

function assertDone({ code, stdout, stderr }: CommandResult): string {
  assert.equal(stderr, "");
  assert.equal(code, 0);
  return stdout;
}

/** Every file of a directory; none if there is no such directory. */
function contents(dir: string): Record<string, string> {
  const names = existsSync(dir) ? readdirSync(dir) : [];
  return Object.fromEntries(names.map((name) => [name, readFileSync(join(dir, name)).toString("base64")]));
}

describe("tsnet on the command line", () => {
  let dir: string;
  let at: Places;
  let daemon: Daemon;
  /** What a daemon with a network, a container and its published port has exported. */
  let exported: string;

  before(async () => {
    dir = mkdtempSync(join(tmpdir(), "tsnet-test-"));
    at = placesIn(dir);
    daemon = new Daemon(at);
    await daemon.answers(at.socket);
    const engine = await EngineClient.open(at.socket);
    for (const [method, body] of [
      ["CreateNetwork", createNetwork(1)],
      ["CreateEndpoint", createEndpoint(1, 2)],
      [
        "ProgramExternalConnectivity",
        { ...endpoint(1, 2), Options: { "com.docker.network.portmap": [PORT] } },
      ],
    ] as const)
      assert.equal(
        ((await engine.call(`NetworkDriver.${method}`, body)).body as { Err?: string }).Err,
        undefined,
      );
    engine.close();
    exported = assertDone(await tsnet(["store", "export", "--state-dir", at.stateDir]));
  });
  after(async () => {
    await daemon.kill();
    rmSync(dir, { recursive: true });
  });

  describe("tsnet store", () => {
    let stateDir: string;
    let file: string;
    const store = (command: string, ...args: string[]) =>
      tsnet(["store", command, "--state-dir", stateDir, ...args]);

    beforeEach(() => {
      const place = mkdtempSync(join(dir, "store-"));
      stateDir = join(place, "state");
      file = join(place, "export.json");
      writeFileSync(file, exported);
    });

    it("check says what there is, beside the daemon that has it", async () => {
      assert.equal(
        assertDone(await tsnet(["store", "check", "--state-dir", at.stateDir])),
        `store ${at.stateDir}: version ${VERSION}, networks 1, endpoints 1: all is well\n`,
      );
    });

    it("check fails in one line where one digit in the file is another, and leaves it as it is", async () => {
      assertDone(await store("import", file));
      const live = readdirSync(stateDir).find((name) => /^run-.*\.mdb$/.test(name)) ?? assert.fail();
      const text = readFileSync(join(stateDir, live), "latin1");
      writeFileSync(join(stateDir, live), text.replaceAll("10.1.0.2/16", "10.1.0.3/16"), "latin1");
      const before = contents(stateDir);
      assertRefused(
        await store("check"),
        new RegExp(`^tsnet: store ${join(stateDir, live)} is damaged: .+; keep a copy and delete it: `),
      );
      assert.deepEqual(contents(stateDir), before);
    });

    it("check fails in one line where what survives the machine is another, though a daemon would not mind today", async () => {
      assertDone(await store("import", file));
      const saved = join(stateDir, "tsnet.mdb");
      const text = readFileSync(saved, "latin1");
      writeFileSync(saved, text.replaceAll("10.1.0.1/16", "10.1.0.9/16"), "latin1");
      assertRefused(
        await store("check"),
        new RegExp(`^tsnet: store ${saved} is damaged: .+; restart tsnet, which writes it anew\n$`),
      );
    });

    it("check fails with a line for each record that does not belong there", async () => {
      const { records } = JSON.parse(exported) as { records: Record<string, unknown> };
      const endpoints = Object.entries(records).filter(([key]) => key.startsWith("endpoint/"));
      mkdirSync(stateDir);
      replaceStore(stateDir, new Map([...endpoints, ["pool/1", {}]]), currentBoot());
      const { code, stdout, stderr } = await store("check");
      assert.deepEqual(
        [code, stdout, stderr.split("\n").sort()],
        [
          1,
          "",
          [
            "",
            `tsnet: store ${stateDir}: endpoint/${id(1)}/${id(1002)}: there is no such network`,
            `tsnet: store ${stateDir}: pool/1: its key is not known`,
          ],
        ],
      );
    });

    it("export writes the same to a file that only its owner may read", async () => {
      const { version, records } = JSON.parse(exported) as { version: number; records: object };
      assert.equal(version, VERSION);
      assert.deepEqual(Object.keys(records).sort(), [`endpoint/${id(1)}/${id(1002)}`, `network/${id(1)}`]);
      const target = join(dir, "exported.json");
      assert.equal(assertDone(await tsnet(["store", "export", "--state-dir", at.stateDir, target])), "");
      assert.equal(readFileSync(target, "utf8"), exported);
      assert.equal((statSync(target).mode & 0o777).toString(8), "600");
      writeFileSync(target, "an earlier one", { mode: 0o644 });
      chmodSync(target, 0o644);
      assertDone(await tsnet(["store", "export", "--state-dir", at.stateDir, target]));
      assert.equal(readFileSync(target, "utf8"), exported);
      assert.equal((statSync(target).mode & 0o777).toString(8), "600");
      assertDone(await tsnet(["store", "export", "--state-dir", at.stateDir, "/dev/null"]));
      assert.ok(statSync("/dev/null").isCharacterDevice());
      assertRefused(
        await tsnet(["store", "export", "--state-dir", at.stateDir, join(dir, "none/x")]),
        /^tsnet: write \S+none\/x: ENOENT/,
      );
    });

    it("check and export say where they looked if there is no store, and make none", async () => {
      for (const command of ["check", "export"])
        assertRefused(
          await store(command),
          new RegExp(`^tsnet: there is no store in ${stateDir}; --state-dir`),
        );
      assert.equal(existsSync(stateDir), false);
    });

    for (const [from, args] of [
      ["a file", (name: string) => [name]],
      ["standard input", () => ["-"]],
    ] as const)
      it(`import from ${from} makes a store with the same records, which a daemon starts with`, async () => {
        const imported = await tsnet(["store", "import", "--state-dir", stateDir, ...args(file)], {
          input: exported,
        });
        assert.equal(assertDone(imported), "");
        assert.equal(assertDone(await store("export")), exported);
        const other = new Daemon({ socket: `${stateDir}.sock`, stateDir });
        try {
          await other.answers(`${stateDir}.sock`);
          const status = JSON.parse(
            assertDone(await tsnet(["status", "--json", "--socket", `${stateDir}.sock`])),
          ) as object;
          assert.deepEqual(
            { ...status, drift: {}, degraded: {} },
            { networks: 1, endpoints: 1, publishedPorts: 1, drift: {}, degraded: {} },
          );
        } finally {
          await other.kill();
        }
      });

    it("import is refused beside a daemon, forced or not", async () => {
      for (const force of [[], ["--force"]])
        assertRefused(
          await tsnet(["store", "import", "--state-dir", at.stateDir, ...force, file]),
          new RegExp(`^tsnet: state directory ${at.stateDir} is in use by .* process ${daemon.pid}\n$`),
        );
      assert.equal(assertDone(await tsnet(["store", "export", "--state-dir", at.stateDir])), exported);
    });

    it("import replaces a store only when forced", async () => {
      const none = join(dir, "none.json");
      writeFileSync(none, JSON.stringify({ version: VERSION, records: {} }));
      assertDone(await store("import", file));
      const before = contents(stateDir);
      assertRefused(
        await store("import", none),
        new RegExp(`^tsnet: ${stateDir} has a store already; --force`),
      );
      assert.equal(assertDone(await store("export")), exported);
      assert.deepEqual(Object.keys(contents(stateDir)), Object.keys(before));
      assertDone(await store("import", "--force", none));
      assert.match(assertDone(await store("check")), /networks 0, endpoints 0: all is well/);
    });

    const bad: Record<string, [string | undefined, RegExp]> = {
      "is not there": [undefined, /^tsnet: read \S+: ENOENT/],
      "is no JSON": ["{", /^tsnet: read \S+: not JSON: /],
      "is of a newer version": [
        JSON.stringify({ version: VERSION + 1, records: {} }),
        new RegExp(
          `^tsnet: read \\S+: an export of version ${VERSION + 1}, but this tsnet knows up to ${VERSION}\n$`,
        ),
      ],
      "has a record that is wrong": [
        JSON.stringify({ version: VERSION, records: { [`network/${id(1)}`]: { id: id(1) } } }),
        new RegExp(`^tsnet: read \\S+: network/${id(1)}: `),
      ],
    };
    for (const [what, [text, pattern]] of Object.entries(bad))
      it(`import is refused in one line and changes nothing if the file ${what}`, async () => {
        const wrong = join(stateDir, "../wrong.json");
        if (text !== undefined) writeFileSync(wrong, text);
        assertRefused(await store("import", wrong), pattern);
        assert.equal(existsSync(stateDir), false);
        assertDone(await store("import", file));
        const before = contents(stateDir);
        assertRefused(await store("import", "--force", wrong), pattern);
        assert.deepEqual(contents(stateDir), before);
      });
  });

  describe("tsnet status", () => {
    it("shows how much there is, as text and as JSON", async () => {
      // That there is no engine is said after half a minute, and this daemon may be as old.
      const text = assertDone(await tsnet(["status", "--socket", at.socket]));
      const [counts, trouble = ""] = text.split("\n\n");
      assert.equal(
        counts?.trimEnd(),
        "WHAT              COUNT\nnetworks          1\nendpoints         1\npublished ports   1",
      );
      assert.match(trouble, /^(DEGRADED {3}WHY\nengine {5}cannot be asked .*\n)?$/);
      const json = JSON.parse(assertDone(await tsnet(["status", "--json", "--socket", at.socket]))) as object;
      const counted = { networks: 1, endpoints: 1, publishedPorts: 1, drift: {} };
      assert.deepEqual({ ...json, degraded: {} }, { ...counted, degraded: {} });
    });
  });

  describe("tsnet ports", () => {
    it("shows each port, by ids while no engine answers, as text and as JSON", async () => {
      const text = assertDone(await tsnet(["ports"], { env: { TSNET_SOCKET: at.socket } }));
      const [heading, ...rows] = text.trimEnd().split("\n");
      assert.match(heading ?? "", /^CONTAINER {3,}NETWORK {3,}HOST {3,}TO$/);
      const ids = [id(1002).slice(0, 12), id(1)];
      assert.deepEqual(
        rows.map((row) => row.split(/ {3,}/)),
        [[...ids, "0.0.0.0:8080", "10.1.0.2:80/tcp"]],
      );
      const views = JSON.parse(
        assertDone(await tsnet(["ports", "--json", "--socket", at.socket])),
      ) as unknown;
      assert.deepEqual(views, [
        {
          container: "",
          network: id(1),
          endpoint: id(1002),
          protocol: "tcp",
          host: { address: "0.0.0.0", port: 8080 },
          target: { address: "10.1.0.2", port: 80 },
        },
      ]);
    });
  });

  for (const command of ["status", "ports"]) {
    it(`${command} fails in one line where no daemon is, and says how to start one`, async () => {
      for (const json of [[], ["--json"]])
        assertRefused(
          await tsnet([command, "--socket", join(dir, "none.sock"), ...json]),
          /^tsnet: no tsnet daemon at \S+none\.sock: .*ENOENT.*; is `tsnet daemon` running\?\n$/,
        );
    });

    for (const [what, answer] of Object.entries({ "what is no JSON": "hello\n", "half of it": "{" }))
      it(`${command} fails in one line where somebody else answers, ${what}`, async () => {
        const socket = join(dir, "other.sock");
        const other = createServer((_, reply) => {
          if (answer.endsWith("\n")) reply.end(answer);
          else reply.writeHead(200, { "Content-Length": "100" }).write(answer, () => reply.destroy());
        });
        await new Promise<void>((resolve) => other.listen(socket, resolve));
        try {
          assertRefused(
            await tsnet([command, "--socket", socket]),
            /^tsnet: (the|no tsnet) daemon at \S+other\.sock/,
          );
        } finally {
          other.close();
        }
      });
  }

  it("says in one line that what it shows cannot be written, and nothing where nobody reads it", async () => {
    for (const args of [
      ["status", "--socket", at.socket],
      ["store", "export", "--state-dir", at.stateDir],
    ]) {
      const script = (text: string) =>
        run(["sh", "-c", text, "sh", process.execPath, MAIN, ...args], { allowFailure: true });
      assertRefused(await script('"$@" >/dev/full'), /^tsnet: standard output: .*ENOSPC/);
      assert.equal((await script('{ sleep 1; "$@"; echo $? >&2; } | true')).stderr, "141\n");
    }
  });

  it("has help for itself and for each command, and its version", async () => {
    const help = assertDone(await tsnet(["--help"]));
    const commands = [...help.matchAll(/^ {2}([a-z]+) /gm)].map(([, name = ""]) => name);
    assert.deepEqual(commands, ["daemon", "ports", "status", "store", "help"]);
    const all = ["daemon", "ports", "status", "store", "store check", "store export", "store import"];
    const helps = await Promise.all(all.map((command) => tsnet([...command.split(" "), "--help"])));
    for (const [index, command] of all.entries())
      assert.match(assertDone(helps[index] ?? assert.fail()), new RegExp(`^Usage: tsnet ${command} `));
    const { version } = JSON.parse(readFileSync(join(MAIN, "../../package.json"), "utf8")) as {
      version: string;
    };
    assert.equal(assertDone(await tsnet(["--version"])), `${version}\n`);
  });

  it("does what it is told in a directory that was deleted", async () => {
    const script = 'mkdir "$0" && cd "$0" && rmdir "$0" && exec "$@"';
    const command = [process.execPath, MAIN, "status", "--json", "--socket", at.socket];
    assert.match(assertDone(await run(["sh", "-c", script, join(dir, "gone"), ...command])), /"networks"/);
  });

  it("refuses in one line what it does not know", async () => {
    assertRefused(await tsnet(["nonsense"]), /unknown command 'nonsense'/);
    assertRefused(await tsnet(["store", "nonsense"]), /unknown command 'nonsense'/);
    assertRefused(await tsnet(["status", "--nonsense"]), /unknown option '--nonsense'/);
    assertRefused(await tsnet(["store", "import"]), /missing required argument 'file'/);
    assertRefused(await tsnet(["daemon", "--log-level", "loud"]), /--log-level \(TSNET_LOG_LEVEL\): /);
  });
});
