import assert from "node:assert/strict";
import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import type { LabHost } from "../lab/host.ts";
import type { Answerers } from "./answers.ts";

/** Sends everything back, by TCP and UDP. */
const ECHO = `
  const port = Number(process.argv[1]);
  const udp = require("dgram").createSocket("udp6");
  udp.on("message", (data, { address, port }) => udp.send(data, port, address));
  const tcp = require("net").createServer((socket) => socket.on("error", () => {}).pipe(socket));
  tcp.listen(port, "::", () => udp.bind(port, "::", () => console.log("ready")));`;

/** 1.6 MB/s by one TCP connection and 100 datagrams/s from one socket, until SIGINT; then prints what came back. */
const CLIENT = `
  const [, address, port] = process.argv;
  const count = { tcp: { sent: 0, answered: 0 }, udp: { sent: 0, answered: 0 }, problem: "" };
  const tcp = require("net").connect({ host: address, port: Number(port) });
  tcp.on("data", (data) => (count.tcp.answered += data.length));
  tcp.on("error", ({ code }) => (count.problem = code)).on("close", () => (count.problem ||= "closed"));
  const udp = require("dgram").createSocket(address.includes(":") ? "udp6" : "udp4");
  udp.on("message", () => (count.udp.answered += 1)).on("error", ({ code }) => (count.problem = code));
  const chunk = Buffer.alloc(16384);
  udp.connect(Number(port), address, () => {
    const sending = setInterval(() => {
      count.tcp.sent += chunk.length;
      tcp.write(chunk);
      count.udp.sent += 1;
      udp.send("?");
    }, 10);
    process.on("SIGINT", () => {
      clearInterval(sending);
      setTimeout(() => (console.log(JSON.stringify(count)), process.exit()), 1500);
    });
    console.log("ready");
  });`;

interface Count {
  readonly sent: number;
  readonly answered: number;
}

/** A connection and a conversation that go on while something happens to whatever is between its ends. */
export class Stream {
  readonly #address: string;
  readonly #child: ChildProcess;

  private constructor(address: string, child: ChildProcess) {
    this.#address = address;
    this.#child = child;
  }

  /** Starts what the other ends of streams speak to. */
  static async serve(answerers: Answerers, host: LabHost, container: string, port: number): Promise<void> {
    await answerers.run(host, [process.execPath, "-e", ECHO, String(port)], container);
  }

  static async start(answerers: Answerers, from: LabHost, address: string, port: number): Promise<Stream> {
    const command = [process.execPath, "-e", CLIENT, address, String(port)];
    return new Stream(address, await answerers.run(from, command));
  }

  /** Ends it; fails if the connection broke, or anything was not sent back. */
  async losesNothing(): Promise<void> {
    assert.ok(this.#child.stdout);
    const said = once(this.#child.stdout, "data");
    this.#child.kill("SIGINT");
    const [text] = (await said) as [Buffer];
    const { tcp, udp, problem } = JSON.parse(text.toString()) as { tcp: Count; udp: Count; problem: string };
    assert.equal(problem, "", this.#address);
    for (const { sent, answered } of [tcp, udp]) {
      assert.ok(sent > 10, `${String(sent)} sent`);
      assert.equal(answered, sent, this.#address);
    }
  }
}
