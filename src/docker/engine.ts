import { Agent, request } from "node:http";
import { Socket } from "node:net";
import * as z from "zod";
import { TsnetError, firstIssue, reason } from "../errors.ts";
import type { EngineBridge } from "../firewall/layout.ts";
import type { Knowledge } from "../knowledge.ts";

/** Milliseconds the engine may take for a whole answer: whoever asks asks again later. */
const TIMEOUT_MS = 10_000;
/** Characters an answer may have: those of some ten thousand networks or containers. */
const ANSWER_LENGTH = 1 << 24;

/** GET /networks, as far as it is read here. */
const Networks = z.array(
  z.object({
    Id: z.string(),
    Driver: z.string(),
    Internal: z.boolean(),
    Options: z.record(z.string(), z.string()).nullish(),
  }),
);
/** GET /networks/{id}; Go's empty map may be null. */
const Inspected = z.object({
  Name: z.string(),
  Containers: z.record(z.string(), z.object({ EndpointID: z.string(), Name: z.string() })).nullable(),
});
const Version = z.object({ Version: z.string() });
const Failure = z.object({ message: z.string() });

/** What an engine has, and which engine that is. */
export interface Inventory {
  /**
   * Stays the same as long as the engine has the same data directory: the id of its network `none`, which it makes as it
   * begins one, and of which there is never another. (What `docker info` calls ID is elsewhere before engine 23.)
   */
  readonly engine: string;
  /** Ids of all its networks. */
  readonly networks: ReadonlySet<string>;
}

/**
 * What the engine knows, read through its API. Only calls that no request to a plugin can block are made here, never
 * `GET /containers/{id}`.
 *
 * It speaks HTTP itself: the usual client, dockerode, brings SSH and gRPC along, 21 MB that stay and 160 ms of each
 * start.
 */
export class Engine implements Knowledge {
  readonly #socketPath: string;
  readonly #closed = new AbortController();

  /** @param socketPath of the engine's API */
  constructor(socketPath: string) {
    this.#socketPath = socketPath;
  }

  /** The bridges of its own bridge driver's networks, whether they are there or not. */
  async bridges(): Promise<Pick<EngineBridge, "name" | "internal">[]> {
    const networks = await this.#get("/networks", Networks);
    return networks
      .filter(({ Driver }) => Driver === "bridge")
      .map(({ Id, Internal, Options }) => {
        // An empty name is none (parseNetworkOptions, moby's bridge driver).
        const { "com.docker.network.bridge.name": name = "" } = Options ?? {};
        return { name: name === "" ? `br-${Id.slice(0, 12)}` : name, internal: Internal };
      });
  }

  /** @throws {TsnetError} also if that is no whole list, as of an engine that is just starting */
  async inventory(): Promise<Inventory> {
    const networks = await this.#get("/networks", Networks);
    const none = networks.find(({ Driver }) => Driver === "null");
    if (!none) throw new TsnetError("docker", "GET /networks: the engine's own networks are not among them");
    return { engine: none.Id, networks: new Set(networks.map(({ Id }) => Id)) };
  }

  /** Whether there is a network of that id. */
  async knowsNetwork(network: string): Promise<boolean> {
    return (await this.inventory()).networks.has(network);
  }

  /** Whether a container has that endpoint. */
  async knowsEndpoint(network: string, endpoint: string): Promise<boolean> {
    return (await this.endpoints(network)).has(endpoint);
  }

  /** Whether a network of its own bridge driver has that bridge. */
  async knowsBridge(name: string): Promise<boolean> {
    return (await this.bridges()).some((bridge) => bridge.name === name);
  }

  /** Ids of the endpoints of a network that containers have now. */
  async endpoints(network: string): Promise<Set<string>> {
    return new Set((await this.names(network)).containers.keys());
  }

  /** What users call a network and the containers on it, by endpoint id. */
  async names(network: string): Promise<{ network: string; containers: Map<string, string> }> {
    const { Name: name, Containers } = await this.#get(`/networks/${network}`, Inspected);
    const containers = Object.values(Containers ?? {}).map(
      ({ EndpointID, Name }) => [EndpointID, Name] as const,
    );
    return { network: name, containers: new Map(containers) };
  }

  /** Its version: `28.5.2+dfsg4`. */
  async version(): Promise<string> {
    return (await this.#get("/version", Version)).Version;
  }

  /** Asks nothing more, and waits for no answer. */
  close(): void {
    this.#closed.abort();
  }

  /**
   * Waits for the answer that an engine gives once it has started, and keeps the connection. Nothing more is
   * asked on it, so that an engine which is told to stop closes it at once; for a request under way it would wait 5 s.
   *
   * @param stopping closes the connection
   * @returns a signal of the engine's end; none comes where a proxy does not keep the connection
   * @throws {TsnetError} if no engine answers
   */
  async live(stopping: AbortSignal): Promise<AbortSignal> {
    const end = new AbortController();
    const agent = new Agent({ keepAlive: true });
    const close = () => {
      agent.destroy();
    };
    agent.keepSocketAlive = (socket) => {
      if (socket instanceof Socket) socket.setTimeout(0);
      socket.once("close", () => {
        stopping.removeEventListener("abort", close);
        end.abort();
      });
      return true;
    };
    stopping.addEventListener("abort", close);
    try {
      await this.#fetch("/_ping", agent);
    } catch (cause) {
      stopping.removeEventListener("abort", close);
      throw new TsnetError("docker", `GET /_ping: ${reason(cause)}`, { cause });
    }
    return end.signal;
  }

  /** Every engine answers a path without a version as its newest. */
  async #get<T>(path: string, schema: z.ZodType<T>): Promise<T> {
    try {
      const { status, text } = await this.#fetch(path);
      const answer: unknown = JSON.parse(text);
      if (status !== 200) throw new Error(Failure.safeParse(answer).data?.message ?? `status ${status}`);
      const parsed = schema.safeParse(answer);
      if (parsed.success) return parsed.data;
      const { path: where, message } = firstIssue(parsed.error);
      throw new Error(`no answer of an engine's: ${[where, message].filter(Boolean).join(": ")}`);
    } catch (cause) {
      throw new TsnetError("docker", `GET ${path}: ${reason(cause)}`, { cause });
    }
  }

  #fetch(path: string, agent?: Agent): Promise<{ status: number | undefined; text: string }> {
    return new Promise((resolve, reject) => {
      const asked = request({ socketPath: this.#socketPath, path, agent }, (answer) => {
        let text = "";
        answer.setEncoding("utf8").on("data", (part: string) => {
          text += part;
          if (text.length > ANSWER_LENGTH)
            fail(new Error(`an answer of more than ${ANSWER_LENGTH} characters`));
        });
        answer.on("end", () => {
          settled();
          resolve({ status: answer.statusCode, text });
        });
        answer.on("error", fail);
      });
      const fail = (error: Error) => {
        settled();
        reject(error);
        asked.destroy();
      };
      const timer = setTimeout(() => {
        fail(new Error(`no answer within ${TIMEOUT_MS} ms`));
      }, TIMEOUT_MS);
      const close = () => {
        fail(new Error("tsnet is stopping"));
      };
      const settled = () => {
        clearTimeout(timer);
        this.#closed.signal.removeEventListener("abort", close);
      };
      asked.on("error", fail);
      if (this.#closed.signal.aborted) close();
      else this.#closed.signal.addEventListener("abort", close);
      asked.end();
    });
  }
}
