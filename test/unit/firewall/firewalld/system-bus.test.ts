import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { type Server, type Socket, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { encodeCall } from "../../../../src/firewall/firewalld/dbus-message.ts";
import { Firewalld } from "../../../../src/firewall/firewalld/firewalld.ts";
import { SystemBus } from "../../../../src/firewall/firewalld/system-bus.ts";
import { memoryLog } from "../../../support/log.ts";
import { until } from "../../../support/until.ts";

/** The answer to Hello: a return of call 1, without a body. */
const WELCOME = Buffer.from("6c02000100000000010000000800000005017500" + "01000000", "hex");
/** The answers to Hello and to the call behind it: errors, without a body. */
const [REFUSED, REFUSED_NEXT] = [1, 2].map((serial) => {
  const answer = Buffer.from(WELCOME);
  answer.writeUInt8(3, 1);
  answer.writeUInt32LE(serial, 20);
  return answer;
});
const SIGNAL = 4;

describe("SystemBus", () => {
  const dir = mkdtempSync(join(tmpdir(), "tsnet-bus-"));
  let server: Server;
  let theirs: Socket;
  let connections: Socket[];
  let bus: SystemBus;
  let heard: string[];

  beforeEach(async () => {
    heard = [];
    const path = join(dir, "bus");
    connections = [];
    server = createServer((socket) => connections.push(socket)).listen(path);
    server.once("connection", (socket) => {
      theirs = socket;
      theirs.write("OK 1f\r\n");
      theirs.write(WELCOME);
    });
    bus = await SystemBus.connect(path);
    bus.onSignal = ({ member, body }) => heard.push(`${member} ${JSON.stringify(body)}`);
  });
  afterEach(() => {
    bus.close();
    server.close();
    for (const socket of connections) socket.destroy();
  });
  after(() => {
    rmSync(dir, { recursive: true });
  });

  it("goes on hearing after a signal that cannot be read, whoever sent it", async () => {
    const broken = signal("Broken", "a", "b");
    // The length of the first text: two texts of one letter are at the end.
    broken.writeUInt32LE(0xff_ffff, broken.length - 14);
    theirs.write(Buffer.concat([broken, signal("Whole", "x")]));
    await until("the second one", () => heard.length > 0);
    assert.deepEqual(heard, ['Whole ["x"]']);
  });

  for (const [what, answers] of Object.entries({
    "takes nobody": { Hello: REFUSED },
    "has no room for what is asked of it": { Hello: WELCOME, AddMatch: REFUSED_NEXT },
  }))
    it(`keeps no connection to a bus that ${what}`, async () => {
      const ended = new Promise((resolve) => {
        server.once("connection", (socket) => {
          socket.write("OK 1f\r\n");
          socket.on("data", (asked) => {
            for (const [method, answer = assert.fail()] of Object.entries(answers))
              if (asked.includes(method)) socket.write(answer);
          });
          socket.once("close", resolve);
        });
      });
      const firewalld = new Firewalld(memoryLog().log, join(dir, "bus"));
      await ended;
      firewalld.close();
    });

  it("leaves where somebody sends more than anybody needs to say", async () => {
    const large = signal("Large", "a");
    large.writeUInt32LE(2 << 20, 4);
    theirs.write(large);
    await bus.closed;
    assert.deepEqual(heard, []);
  });
});

function signal(member: string, ...args: string[]): Buffer {
  const message = encodeCall(9, { destination: ":1.0", path: "/", interface: "a.b", member }, args);
  message.writeUInt8(SIGNAL, 1);
  return message;
}
