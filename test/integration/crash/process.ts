import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import type { Answer, Order } from "./victim.ts";

/** One daemon that may be killed: a process that obeys, until it is told to die or is killed. */
export class Daemon {
  readonly #child: ChildProcess;
  readonly #ended: Promise<unknown>;
  #errors = "";

  /** @param program the compiled victim */
  constructor(program: string) {
    this.#child = fork(program, { execArgv: [], stdio: ["ignore", "ignore", "pipe", "ipc"] });
    this.#child.stderr?.setEncoding("utf8").on("data", (text: string) => (this.#errors += text));
    this.#ended = once(this.#child, "close");
  }

  /** Has an order carried out. @throws {Error} if it fails or the process ends */
  async obey(order: Order): Promise<Answer> {
    const answer = await this.#send(order);
    if (!answer)
      throw new Error(`the process ended by ${this.#child.signalCode ?? "itself"}: ${this.#errors}`);
    if (answer.error !== undefined) throw new Error(`${JSON.stringify(order)}: ${answer.error}`);
    return answer;
  }

  /** Has an order carried out that kills the process. @throws {Error} if it lives */
  async die(order: Order): Promise<void> {
    const answer = await this.#send(order);
    if (answer)
      throw new Error(`${JSON.stringify(order)} did not kill it: ${answer.error ?? answer.calls.join(", ")}`);
    if (this.#child.signalCode !== "SIGKILL") throw new Error(`it ended by itself: ${this.#errors}`);
  }

  /** Kills it, whatever it does. */
  async kill(): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.#ended;
  }

  /** Undefined if the process ended first. */
  async #send(order: Order): Promise<Answer | undefined> {
    const answer = once(this.#child, "message").then(([message]) => message as Answer);
    this.#child.send(order);
    return await Promise.race([answer, this.#ended.then(() => undefined)]);
  }
}
