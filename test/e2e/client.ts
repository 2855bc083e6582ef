import type { ChildProcess } from "node:child_process";
import type { LabHost } from "../lab/host.ts";
import type { Answerers } from "./answers.ts";
import { until } from "./until.ts";

/**
 * Asks the same port of several addresses again and again: by UDP every 10 ms from the same socket, by TCP every
 * 50 ms with a new connection. Prints `PROTOCOL ADDRESS ANSWER` for each answer.
 */
const SCRIPT = `
  const [, port, ...addresses] = process.argv;
  const tell = (...words) => console.log(words.join(" "));
  for (const address of addresses) {
    const socket = require("dgram").createSocket(address.includes(":") ? "udp6" : "udp4");
    socket.on("error", () => {}).on("message", (data) => tell("udp", address, data));
    socket.connect(Number(port), address);
    setInterval(() => socket.send("?", () => {}), 10);
    setInterval(() => {
      let text = "";
      let silence;
      const connection = require("net").connect({ host: address, port: Number(port) });
      const end = (problem) => {
        clearTimeout(silence);
        if (text || problem) tell("tcp", address, text || problem);
        connection.destroy();
      };
      connection.on("connect", () => (silence = setTimeout(end, 2000, "silence")));
      connection.on("data", (data) => (text += data));
      connection.on("error", () => end()).on("end", () => end("silence"));
    }, 50);
  }
  console.log("ready");`;

/** A client on a host that never stops asking. */
export class Client {
  /** Who answered last, and when, by protocol and address. */
  readonly #latest = new Map<string, { name: string; at: number }>();
  readonly #silences: string[] = [];
  readonly #streams: number;

  private constructor(child: ChildProcess, streams: number) {
    this.#streams = streams;
    let rest = "";
    child.stdout?.on("data", (data: Buffer) => {
      const lines = (rest + data.toString()).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) this.#heard(line);
    });
  }

  /** Starts one; it ends with the answerers. */
  static async start(
    answerers: Answerers,
    host: LabHost,
    addresses: readonly string[],
    port: number,
  ): Promise<Client> {
    const command = [process.execPath, "-e", SCRIPT, String(port), ...addresses];
    return new Client(await answerers.run(host, command), 2 * addresses.length);
  }

  /** Waits until it is answered by that one and no other, by TCP and UDP at every address. */
  async isAnsweredBy(name: string, withinMs: number): Promise<void> {
    const start = Date.now();
    const fresh = () => [...this.#latest].filter(([, { at }]) => at >= start);
    const right = () => fresh().filter(([, latest]) => latest.name === name);
    await until(`${name} to answer`, async () => right().length === this.#streams, withinMs).catch(() => {
      const heard = fresh().map(([stream, latest]) => `${stream}: ${latest.name}`);
      throw new Error(
        `not all is answered by ${name} within ${String(withinMs)} ms, but ${heard.join(", ")}`,
      );
    });
  }

  /** Connections that somebody took and that were never answered, by address. */
  silences(): readonly string[] {
    return this.#silences;
  }

  #heard(line: string): void {
    const [protocol = "", address = "", name = ""] = line.split(" ");
    if (name === "silence") this.#silences.push(address);
    else if (name !== "") this.#latest.set(`${protocol} ${address}`, { name, at: Date.now() });
  }
}
