import { type Socket, connect } from "node:net";
import { getuid } from "node:process";
import { TsnetError } from "../../errors.ts";
import {
  type BusMessage,
  type BusValue,
  type MethodCall,
  decodeMessage,
  encodeCall,
  messageLength,
} from "./dbus-message.ts";

const BUS = {
  destination: "org.freedesktop.DBus",
  path: "/org/freedesktop/DBus",
  interface: "org.freedesktop.DBus",
} as const;

/** Bytes that no message of firewalld's has. */
const TOO_LARGE = 1 << 20;

/** A connection to the system bus (D-Bus specification), on which everybody may send a signal to everybody. */
export class SystemBus {
  readonly #socket: Socket;
  readonly #waiting = new Map<
    number,
    { resolve: (body: readonly BusValue[]) => void; reject: (error: Error) => void }
  >();
  #serial = 0;
  #received = Buffer.alloc(0);
  #admitted = false;

  /** Resolves once the connection has ended, however it did. */
  readonly closed: Promise<void>;
  /** Is told of each signal that was asked for with {@link listen}. */
  onSignal: (signal: BusMessage) => void = () => undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    // The bus may say nothing for ever, and keeps the daemon from nothing.
    socket.unref();
    socket.on("data", (data) => {
      this.#receive(data);
    });
    this.closed = new Promise((resolve) => {
      socket.on("close", () => {
        for (const { reject } of this.#waiting.values())
          reject(new TsnetError("dbus", "the system bus has gone"));
        this.#waiting.clear();
        resolve();
      });
    });
    // It is followed by close.
    socket.on("error", () => undefined);
  }

  /**
   * Connects; fails where there is no bus, or one that takes nobody.
   *
   * @param path of the bus's socket
   */
  static async connect(path: string): Promise<SystemBus> {
    const bus = new SystemBus(connect(path));
    // Before anything else, a byte of zero and who we are ("Authentication Protocol", EXTERNAL). No answer is waited
    // for: the bus reads one after the other.
    const uid = Buffer.from(String(getuid?.() ?? 0)).toString("hex");
    bus.#socket.write(`\0AUTH EXTERNAL ${uid}\r\nBEGIN\r\n`);
    try {
      await bus.call({ ...BUS, member: "Hello" });
      return bus;
    } catch (error) {
      bus.close();
      throw error;
    }
  }

  /** Calls a method. Resolves to what it returns. */
  call(method: MethodCall, ...args: readonly BusValue[]): Promise<readonly BusValue[]> {
    return new Promise((resolve, reject) => {
      const serial = ++this.#serial;
      const what = `${method.interface}.${method.member}`;
      this.#waiting.set(serial, {
        resolve,
        reject: (error) => {
          reject(new TsnetError("dbus", `${what}: ${error.message}`));
        },
      });
      if (this.#socket.destroyed) this.#waiting.get(serial)?.reject(new Error("the system bus has gone"));
      else this.#socket.write(encodeCall(serial, method, args));
    });
  }

  /** Whether somebody has that name on the bus. */
  async hasOwner(name: string): Promise<boolean> {
    const [answer] = await this.call({ ...BUS, member: "NameHasOwner" }, name);
    return answer === true;
  }

  /** Has {@link onSignal} told of the signals of that name's owner, and of its coming and going. */
  async listen(name: string): Promise<void> {
    const add = { ...BUS, member: "AddMatch" };
    await this.call(add, `type='signal',sender='${name}'`);
    await this.call(
      add,
      `type='signal',sender='${BUS.destination}',member='NameOwnerChanged',arg0='${name}'`,
    );
  }

  close(): void {
    this.#socket.destroy();
  }

  #receive(data: Buffer): void {
    this.#received = Buffer.concat([this.#received, data]);
    if (!this.#admitted && !this.#admit()) return;
    for (;;) {
      const length = messageLength(this.#received);
      if (length !== undefined && length > TOO_LARGE) this.#socket.destroy();
      if (length === undefined || this.#received.length < length) return;
      const message = this.#received.subarray(0, length);
      this.#received = this.#received.subarray(length);
      this.#handle(message);
    }
  }

  /** The one line that answers AUTH: `OK` and the bus's id, or a refusal. */
  #admit(): boolean {
    const end = this.#received.indexOf("\r\n");
    if (end < 0) return false;
    this.#admitted = this.#received.toString("utf8", 0, end).startsWith("OK ");
    this.#received = this.#received.subarray(end + 2);
    if (!this.#admitted) this.#socket.destroy();
    return this.#admitted;
  }

  #handle(bytes: Buffer): void {
    let message: BusMessage;
    try {
      message = decodeMessage(bytes);
    } catch {
      // What cannot be read is nothing that was asked for.
      return;
    }
    if (message.type === "signal") this.onSignal(message);
    const call = this.#waiting.get(message.replyTo);
    if (!call || (message.type !== "return" && message.type !== "error")) return;
    this.#waiting.delete(message.replyTo);
    if (message.type === "return") call.resolve(message.body);
    else call.reject(new Error(`${message.member} ${JSON.stringify(message.body)}`));
  }
}
