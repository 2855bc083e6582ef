import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import type { LabHost } from "../lab/host.ts";
import type { Place } from "./site.ts";

/** Something to ask, and how. */
export interface Question {
  /** Default tcp. */
  readonly protocol?: "tcp" | "udp";
  /** Bare, of either family. */
  readonly address: string;
  readonly port: number;
  /** Nobody should answer, so that it is not waited for long. */
  readonly unexpected?: boolean;
}

/** How long an answer is waited for that should come, on a busy machine, and one that should not. */
const PATIENCE_MS = { expected: 5000, unexpected: 1000 } as const;

/** Answers `NAME ADDRESS` to whoever asks by TCP and UDP, v4 and v6, with the address that it sees. */
const SERVER = `
  const [, name, ...ports] = process.argv;
  const answer = (address) => name + " " + address.replace(/^::ffff:/, "");
  let missing = 2 * ports.length;
  const ready = () => --missing || console.log("ready");
  for (const port of ports.map(Number)) {
    const tcp = require("net").createServer((socket) => {
      socket.on("error", () => {});
      socket.end(answer(socket.remoteAddress ?? ""));
    });
    const udp = require("dgram").createSocket("udp6");
    udp.on("message", (_, { address, port }) => udp.send(answer(address), port, address, () => {}));
    tcp.listen(port, "::", ready);
    udp.bind(port, "::", ready);
  }`;

/** Asks all questions at once and prints the answers as JSON. */
const CLIENT = `
  const [, patience, questions] = process.argv;
  const { expected, unexpected } = JSON.parse(patience);
  const tcp = ({ address, port }, end) => {
    const socket = require("net").connect({ host: address, port });
    let text = "";
    socket.on("connect", () => (text = "silence")).on("error", ({ code }) => end(code));
    socket.on("data", (data) => (text = String(data))).on("end", () => end(text));
    return () => (end(text || "nothing"), socket.destroy());
  };
  const udp = ({ address, port }, end) => {
    const socket = require("dgram").createSocket(address.includes(":") ? "udp6" : "udp4");
    socket.on("error", ({ code }) => end(code)).on("message", (data) => end(String(data)));
    const ask = () => socket.send("?", (error) => error && end(error.code));
    const again = setInterval(ask, 200);
    socket.connect(port, address, ask);
    return () => (clearInterval(again), end("nothing"), socket.close());
  };
  const asked = JSON.parse(questions).map((question) => new Promise((resolve) => {
    const stop = (question.protocol === "udp" ? udp : tcp)(question, resolve);
    setTimeout(stop, question.unexpected ? unexpected : expected);
  }));
  Promise.all(asked).then((answers) => { console.log(JSON.stringify(answers)); process.exit(); });`;

/** Programs that answer, in namespaces of a host's containers or in the host's own. They end with this process. */
export class Answerers {
  readonly #running: ChildProcess[] = [];

  /**
   * Starts one and waits until it listens.
   *
   * @param name what it answers, beside the address it sees
   * @param container whose namespace it is in; absent: the host's
   */
  async start(
    host: LabHost,
    name: string,
    ports: readonly number[],
    container?: string,
  ): Promise<ChildProcess> {
    const command = [process.execPath, "-e", SERVER, name, ...ports.map(String)];
    return await this.run(host, command, container);
  }

  /** Starts any program that says something once it is ready. */
  async run(host: LabHost, command: readonly string[], container?: string): Promise<ChildProcess> {
    const inside = ["nsenter", `--net=${await namespaceOf(host, container)}`, "--"];
    const child = spawn("setpriv", ["--pdeathsig=KILL", ...inside, ...command], {
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.#running.push(child);
    let complaint = "";
    child.stderr.on("data", (text: Buffer) => (complaint += text.toString()));
    await Promise.race([
      once(child.stdout, "data"),
      once(child, "exit").then(() => {
        throw new Error(`${command.slice(-3).join(" ")}: ${complaint}`);
      }),
    ]);
    return child;
  }

  /** Ends one, or all of them. */
  async stop(one?: ChildProcess): Promise<void> {
    const ending = one ? [one] : this.#running.splice(0);
    await Promise.all(
      ending.map(async (child) => {
        if (child.exitCode !== null || child.signalCode !== null) return;
        const gone = once(child, "exit");
        child.kill("SIGKILL");
        await gone;
      }),
    );
  }
}

/** Path of the network namespace of a running container, or of the host. */
async function namespaceOf(host: LabHost, container: string | undefined): Promise<string> {
  const machine = `/proc/${String(host.pid)}`;
  if (container === undefined) return `${machine}/ns/net`;
  const { State: state } = await host.api.getContainer(container).inspect();
  if (state.Pid === 0) throw new Error(`${container} does not run`);
  // The engine counts PIDs as its host does, and the host's /proc is seen through its root.
  return `${machine}/root/proc/${String(state.Pid)}/ns/net`;
}

/**
 * Asks, all at once.
 *
 * @returns answers in order: `NAME ADDRESS`; `silence` where somebody took the connection and said nothing;
 *   an errno or `nothing` where nobody was there
 */
export async function ask(from: Place, questions: readonly Question[]): Promise<string[]> {
  const command = [process.execPath, "-e", CLIENT, JSON.stringify(PATIENCE_MS), JSON.stringify(questions)];
  return JSON.parse((await from.exec(command)).stdout) as string[];
}
