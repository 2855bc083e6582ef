import { once } from "node:events";
import { type Socket, connect } from "node:net";

/** A reply to one request. */
export interface Reply {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly text: string;
  /** The text, parsed. */
  readonly body: unknown;
}

/** How engines 26 and later name the host; 20.10 sends an empty one (PROTOCOL.md 1.3). */
export const HOST = "plugin.moby.localhost";

const END_OF_HEAD = "\r\n\r\n";

/**
 * One connection as the engine's plugin client keeps it: HTTP/1.1 written by hand, so that what is sent is
 * what is asked for and nothing is added, no Content-Type in particular.
 */
export class EngineClient {
  readonly #socket: Socket;
  #received = Buffer.alloc(0);
  #wake: () => void = () => undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on("data", (chunk: Buffer) => {
      this.#received = Buffer.concat([this.#received, chunk]);
      this.#wake();
    });
    // Whoever waits for a reply sees the end of the connection.
    socket
      .on("error", () => undefined)
      .on("close", () => {
        this.#wake();
      });
  }

  static async open(path: string): Promise<EngineClient> {
    const socket = connect(path);
    await once(socket, "connect");
    return new EngineClient(socket);
  }

  /** Whether the other side still has it open. */
  get isOpen(): boolean {
    return this.#socket.readyState === "open";
  }

  /** Sends a method's request and waits for the reply. The body is sent as it is if it is text. */
  async call(method: string, body?: unknown, host = HOST): Promise<Reply> {
    const text = typeof body === "string" ? body : body === undefined ? "" : encode(body);
    this.send(head(method, Buffer.byteLength(text), host) + text);
    return await this.reply();
  }

  /** Sends text as it is. */
  send(text: string): void {
    this.#socket.write(text);
  }

  /** Waits for one reply. Fails when the connection ends before it. */
  async reply(): Promise<Reply> {
    for (;;) {
      const at = this.#received.indexOf(END_OF_HEAD);
      if (at >= 0) {
        const { status, headers } = parseHead(this.#received.subarray(0, at).toString());
        const start = at + END_OF_HEAD.length;
        const end = start + Number(headers["content-length"] ?? 0);
        if (this.#received.length >= end) {
          const text = this.#received.subarray(start, end).toString();
          this.#received = this.#received.subarray(end);
          return { status, headers, text, body: text === "" ? undefined : JSON.parse(text) };
        }
      }
      if (!this.isOpen) throw new Error("the connection ended before the reply");
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }

  close(): void {
    this.#socket.destroy();
  }
}

/** A body as Go's encoder writes it: compact, with a line feed at the end. */
export function encode(body: unknown): string {
  return `${JSON.stringify(body)}\n`;
}

/** The head of a request as the engine sends it. */
export function head(method: string, length: number, host = HOST): string {
  return [
    `POST /${method} HTTP/1.1`,
    `Host: ${host}`,
    "User-Agent: Go-http-client/1.1",
    `Content-Length: ${length}`,
    "Accept: application/vnd.docker.plugins.v1.2+json",
    "\r\n",
  ].join("\r\n");
}

function parseHead(text: string): { status: number; headers: Record<string, string> } {
  const [first = "", ...lines] = text.split("\r\n");
  const headers = lines.map(
    (line) => [line.split(":", 1)[0]?.toLowerCase() ?? "", line.replace(/^[^:]*:\s*/, "")] as const,
  );
  return { status: Number(first.split(" ")[1]), headers: Object.fromEntries(headers) };
}
