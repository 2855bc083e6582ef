import { type ChildProcess, spawn } from "node:child_process";
import { KernelError, reason } from "../../errors.ts";

/** Milliseconds after which a program is ended that does not answer: three times what iptables waits for a lock. */
const ANSWER_MS = 30_000;

interface Question {
  readonly text: string;
  readonly resolve: (answer: string) => void;
  readonly reject: (error: unknown) => void;
}

/** A question under way. */
interface Asked extends Question {
  /** Undefined while none is started. */
  child?: ChildProcess;
  /** The program was ended since it did not answer. */
  late: boolean;
}

interface Handle {
  ref(): void;
  unref(): void;
}

/**
 * A program that stays and answers one question after another through a pipe. Starting one stops the daemon for up to
 * 9 ms each time, since the kernel copies the daemon's page tables first; this costs that once.
 */
export class Conversation {
  readonly #name: string;
  readonly #program: string;
  readonly #args: readonly string[];
  readonly #end: string;
  #child: ChildProcess | undefined;
  #current: Asked | undefined;
  readonly #waiting: Question[] = [];
  #deadline: NodeJS.Timeout | undefined;

  /**
   * @param name for the text of errors
   * @param end line that the program prints when it has answered
   */
  constructor(name: string, [program, ...args]: readonly [string, ...string[]], end: string) {
    this.#name = name;
    this.#program = program;
    this.#args = args;
    this.#end = `${end}\n`;
  }

  /**
   * Asks, after everything asked before was answered.
   *
   * @returns what it printed before the last line
   * @throws {KernelError} with its own complaint, if it ended instead, or was ended since it did not answer, or with why
   *   it cannot be started; the next question starts it again
   */
  ask(text: string): Promise<string> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ text, resolve, reject });
      this.#next();
    });
  }

  /** The program's process; undefined while there is none. */
  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /** Ends the program. */
  close(): void {
    this.#child?.stdin?.end();
    this.#child = undefined;
  }

  #next(): void {
    if (this.#current) return;
    const question = this.#waiting.shift();
    if (!question) {
      hold(this.#child, false);
      return;
    }
    const asked: Asked = (this.#current = { late: false, ...question });
    try {
      asked.child = this.#child ??= this.#start();
    } catch (error) {
      // So it is with ENOMEM; other reasons come as an event.
      this.#finish(undefined, ({ reject }) => {
        reject(failure(this.#name, error, ""));
      });
      return;
    }
    hold(asked.child, true);
    this.#deadline = setTimeout(() => {
      asked.late = true;
      this.#kill();
    }, ANSWER_MS);
    asked.child.stdin?.write(asked.text);
  }

  /** Ends the program with whatever it has started; the next question is for another, even if it answers yet. */
  #kill(): void {
    const { pid } = this;
    this.#child = undefined;
    try {
      if (pid !== undefined) process.kill(-pid, "SIGKILL");
    } catch {
      // It has just ended by itself, which is about to be told.
    }
  }

  /** Ends the question under way, if it is that child's. */
  #finish(child: ChildProcess | undefined, settle: (asked: Asked) => void): void {
    const ended = this.#current;
    if (!ended || ended.child !== child) return;
    this.#current = undefined;
    clearTimeout(this.#deadline);
    settle(ended);
    this.#next();
  }

  /** Its pipes are missing where there are no descriptors for them (EMFILE, ENFILE); then it ends at once. */
  #start(): ChildProcess {
    // In a session of its own: what ends the daemon must not end it before requests in flight are done.
    const child: ChildProcess = spawn(this.#program, this.#args, { detached: true });
    let chunks: Buffer[] = [];
    let complaint = "";
    child.stdout?.on("data", (chunk: Buffer) => {
      chunks.push(chunk);
      if (!endsWith(chunks, this.#end)) return;
      const answer = Buffer.concat(chunks).toString();
      chunks = [];
      complaint = "";
      this.#finish(child, ({ resolve }) => {
        resolve(answer.slice(0, -this.#end.length));
      });
    });
    child.stderr?.on("data", (chunk: Buffer) => (complaint += chunk.toString()));
    // A program that ended before it read everything says why on stderr, not here.
    child.stdin?.on("error", () => undefined);
    let ended = false;
    const end = (launch?: Error) => {
      if (ended) return;
      ended = true;
      if (this.#child === child) this.#child = undefined;
      this.#finish(child, ({ late, reject }) => {
        reject(failure(this.#name, launch, late ? `no answer within ${ANSWER_MS / 1000} s` : complaint));
      });
    };
    // Of one that could not be started Node does not always tell that it is closed.
    child.on("error", end);
    child.on("close", () => {
      end();
    });
    return child;
  }
}

/** Whether the last bytes are these; an answer comes in many chunks. */
function endsWith(chunks: readonly Buffer[], end: string): boolean {
  const tail = Buffer.concat(chunks.slice(-2)).subarray(-end.length).toString();
  return tail === end;
}

/** An idle program must not keep the daemon from ending. */
function hold(child: ChildProcess | undefined, held: boolean): void {
  // The pipes are sockets, whatever their declared type.
  const parts = [child, child?.stdin, child?.stdout, child?.stderr] as unknown as (Handle | undefined)[];
  for (const part of parts) {
    if (held) part?.ref();
    else part?.unref();
  }
}

function failure(program: string, launch: unknown, complaint: string): KernelError {
  const said = complaint
    // What nf_tables' iptables-restore could not commit is on the line behind its name and version.
    .replace(/:\s*\n\s*/g, ": ")
    .split("\n")
    .map((line) => line.trim())
    .find((line) => line !== "");
  return new KernelError(program, "", said ?? (launch ? reason(launch) : "ended unexpectedly"), {
    cause: launch,
  });
}
