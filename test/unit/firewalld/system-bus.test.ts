import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { type Server, type Socket, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { encodeCall } from "../../../src/firewalld/dbus-message.ts";
import { until } from "../../support/until.ts";
import { SystemBus } from "../../../src/firewalld/system-bus.ts";

/** The answer to Hello: a return of call 1, without a body. */
const WELCOME = Buffer.from("6c02000100000000010000000800000005017500" + "01000000", "hex");
const SIGNAL = 4;

describe("SystemBus", () => {
  const dir = mkdtempSync(join(tmpdir(), "tsnet-bus-"));
  let server: Server;
  let theirs: Socket;
  let bus: SystemBus;
  let heard: string[];

  beforeEach(async () => {
    heard = [];
    const path = join(dir, "bus");
    server = createServer().listen(path);
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
