import { existsSync, lstatSync, mkdirSync, rmSync, statSync } from "node:fs";
import type { Server } from "node:http";
import {
  type Server as SocketServer,
  type Socket,
  connect,
  createServer as createSocketServer,
} from "node:net";
import { dirname } from "node:path";
import type { Logger } from "pino";
import { InvalidError, TsnetError, isErrno, reason } from "../errors.ts";
import { passedSocket } from "../kernel/service-manager.ts";
import { unixSocketOwner } from "../kernel/socket-owner.ts";

/** Owner only: whoever may speak to the socket may change the host's network. */
const UMASK = 0o177;
/** By these bits of its mode others may speak to a socket (unix(7)). */
const OTHERS = 0o022;
/**
 * Connections that wait to be taken, as many as the kernel allows by default (net.core.somaxconn): one more is
 * refused at once (EAGAIN, unix(7)), which the engine does not try again.
 */
const BACKLOG = 4096;
/** Milliseconds between two looks at what is still connected, when nothing new is listened for. */
const SWEEP_MS = 20;
/** Milliseconds between two looks whether the socket's file is still there. */
const LOOK_MS = 1000;

/**
 * Has a server listen on the socket that systemd passed, or on a path of its own. A stale socket file is replaced; a
 * passed socket whose file somebody has deleted reaches nobody, so there is a new one at its path.
 *
 * @throws {TsnetError} that says who holds the path, if somebody answers there, or that it is no socket
 */
export async function listen(server: Server, path: string, log: Logger): Promise<Listener> {
  // The engine keeps connections for minutes; closing one while it sends would lose that request's body.
  server.keepAliveTimeout = 0;
  server.requestTimeout = 0;
  // Nor one that it opened to have it at hand.
  server.headersTimeout = 0;
  const passed = passedSocket();
  if (passed?.path === "")
    throw new InvalidError(
      `the socket that the service manager passed has no path; its unit needs ListenStream=${path}`,
    );
  const listening = new Listener(server, passed?.path ?? path);
  if (passed && existsSync(passed.path)) {
    mustBePrivate(passed.path);
    await opened(server, () => server.listen({ fd: passed.fd }, BACKLOG));
  } else {
    if (passed) log.warn({ socket: passed.path }, "the passed socket's file is gone; listening anew");
    await removeStale(listening.path);
    await openedAt(server, listening.path);
  }
  listening.keep(log);
  return listening;
}

/** A server that listens. */
export class Listener {
  /** Of the socket. */
  readonly path: string;
  readonly #server: Server;
  /** Where connections come in. */
  readonly #entrances: Set<SocketServer>;
  readonly #connections = new Set<Socket>();
  #look: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(server: Server, path: string) {
    this.path = path;
    this.#server = server;
    this.#entrances = new Set<SocketServer>([server]);
    server.on("connection", (connection) => {
      this.#connections.add(connection);
      connection.on("close", () => this.#connections.delete(connection));
    });
  }

  /**
   * Listens at the path once more whenever somebody has deleted the file there, as `rm -rf /run/docker` does, or put a
   * socket in its place that nobody listens on: an engine that starts finds the plugin by it alone. Why that cannot be
   * is told once.
   */
  keep(log: Logger): void {
    const { path } = this;
    let file = inodeOf(path);
    let told = "";
    const look = async () => {
      try {
        if (inodeOf(path) === file) return;
        await this.#reopen();
        file = inodeOf(path);
        told = "";
      } catch (error) {
        if (reason(error) !== told)
          log.error(
            { socket: path, reason: reason(error) },
            "the socket is gone and not back; will try again",
          );
        told = reason(error);
      }
    };
    this.#look = setInterval(() => void look(), LOOK_MS).unref();
  }

  async #reopen(): Promise<void> {
    await removeStale(this.path);
    if (this.#closed) return;
    const entrance = createSocketServer({ allowHalfOpen: true }, (connection) => {
      this.#server.emit("connection", connection);
    });
    this.#entrances.add(entrance);
    try {
      await openedAt(entrance, this.path);
    } catch (error) {
      this.#entrances.delete(entrance);
      throw error;
    }
  }

  /** Stops listening, lets requests in flight finish, and closes. */
  async close(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#look);
    const closed = Promise.all(
      [...this.#entrances].map((entrance) => new Promise((resolve) => entrance.close(resolve))),
    );
    // A connection is idle only once its request has been answered, so look again until none is left.
    const sweep = setInterval(() => {
      this.#server.closeIdleConnections();
      // Node counts one that was never used as busy, and an engine opens more than it needs (Go's http.Transport).
      for (const connection of this.#connections) if (connection.bytesRead === 0) connection.destroy();
    }, SWEEP_MS);
    await closed;
    clearInterval(sweep);
  }
}

function inodeOf(path: string): number | undefined {
  return lstatSync(path, { throwIfNoEntry: false })?.ino;
}

/** To take it from others now would be too late: what they have sent waits there. */
function mustBePrivate(path: string): void {
  if ((statSync(path).mode & OTHERS) !== 0)
    throw new InvalidError(
      `socket ${path}, passed by the service manager, is open to other users; its unit needs SocketMode=0600`,
    );
}

async function openedAt(entrance: SocketServer, path: string): Promise<void> {
  mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
  const before = process.umask(UMASK);
  // The file is made within the call.
  const done = opened(entrance, () => entrance.listen({ path, backlog: BACKLOG }));
  process.umask(before);
  await done;
}

function opened(entrance: SocketServer, start: () => void): Promise<void> {
  return new Promise((resolve, reject) => {
    // Later ones are of a connection that could not be taken, for lack of descriptors; the next one may be.
    entrance.on("error", (cause) => {
      reject(new TsnetError("busy", `cannot listen: ${reason(cause)}`, { cause }));
    });
    entrance.once("listening", resolve);
    start();
  });
}

async function removeStale(path: string): Promise<void> {
  const there = lstatSync(path, { throwIfNoEntry: false });
  if (!there) return;
  if (there.isSymbolicLink())
    throw new InvalidError(`${path} is a symbolic link; give the path that it leads to as --socket`);
  if (!there.isSocket())
    throw new InvalidError(`${path} is there already and is no socket; choose another --socket`);
  if (await isListenedTo(path))
    throw new TsnetError(
      "busy",
      `socket ${path} is in use by ${unixSocketOwner(path)?.what ?? "another process"}; stop it or choose another --socket`,
    );
  rmSync(path, { force: true });
}

/** @throws {TsnetError} if that cannot be told: then the socket must stay */
function isListenedTo(path: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const probe = connect(path, () => {
      probe.destroy();
      resolve(true);
    });
    probe.on("error", (cause) => {
      if (isErrno(cause, "ECONNREFUSED", "ENOENT")) resolve(false);
      // Its queue is full (unix(7), connect(2)), or it takes no streams.
      else if (isErrno(cause, "EAGAIN", "EPROTOTYPE")) resolve(true);
      else reject(new TsnetError("busy", `cannot ask who listens on ${path}: ${reason(cause)}`, { cause }));
    });
  });
}
