import { Agent, request } from "node:http";
import { Socket } from "node:net";
import { TsnetError, reason } from "../errors.ts";

/** Milliseconds the engine may take to answer: it is asked off the request path, and asked again later. */
const TIMEOUT_MS = 10_000;

/** GET /networks, as far as it is read here. */
interface NetworkView {
  readonly Id: string;
  readonly Name: string;
  readonly Driver: string;
  readonly Internal: boolean;
  readonly Options?: Readonly<Record<string, string>> | null;
  /** Only when one network is asked for. */
  readonly Containers?: Readonly<Record<string, { readonly EndpointID: string; readonly Name: string }>>;
}

/** A network of any driver, as the engine lists it. */
export interface EngineNetwork {
  readonly id: string;
  readonly internal: boolean;
  /** The bridge link that the engine's own driver gave it. */
  readonly bridge: string | undefined;
}

/**
 * What the engine knows, read through its API. Only calls that no request to a plugin can block are made here:
 * `GET /networks` and `GET /networks/{id}`, never `GET /containers/{id}`.
 *
 * It speaks HTTP itself: the usual client, dockerode, brings SSH and gRPC along, 21 MB that stay and 160 ms of each
 * start.
 */
export class Engine {
  readonly #socketPath: string;

  /** @param socketPath of the engine's API */
  constructor(socketPath: string) {
    this.#socketPath = socketPath;
  }

  /** Every network of any driver. */
  async networks(): Promise<EngineNetwork[]> {
    const networks = await this.#get<readonly NetworkView[]>("/networks");
    return networks.map(({ Id, Driver, Internal, Options }) => ({
      id: Id,
      internal: Internal,
      bridge:
        Driver === "bridge"
          ? (Options?.["com.docker.network.bridge.name"] ?? `br-${Id.slice(0, 12)}`)
          : undefined,
    }));
  }

  /** Whether there is a network of that id. */
  async knowsNetwork(network: string): Promise<boolean> {
    return (await this.networks()).some(({ id }) => id === network);
  }

  /** Whether a container has that endpoint. */
  async knowsEndpoint(network: string, endpoint: string): Promise<boolean> {
    return (await this.endpoints(network)).has(endpoint);
  }

  /** Ids of the endpoints of a network that containers have now. */
  async endpoints(network: string): Promise<Set<string>> {
    return new Set((await this.names(network)).containers.keys());
  }

  /** What users call a network and the containers on it, by endpoint id. */
  async names(network: string): Promise<{ network: string; containers: Map<string, string> }> {
    const { Name: name, Containers = {} } = await this.#get<NetworkView>(`/networks/${network}`);
    const containers = Object.values(Containers).map(({ EndpointID, Name }) => [EndpointID, Name] as const);
    return { network: name, containers: new Map(containers) };
  }

  /** Its version: `28.5.2+dfsg4`. */
  async version(): Promise<string> {
    return (await this.#get<{ readonly Version: string }>("/version")).Version;
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
      await get(this.#socketPath, "/_ping", agent);
    } catch (cause) {
      stopping.removeEventListener("abort", close);
      throw new TsnetError("docker", `GET /_ping: ${reason(cause)}`, { cause });
    }
    return end.signal;
  }

  /** Every engine answers a path without a version as its newest. */
  async #get<T>(path: string): Promise<T> {
    try {
      const { status, text } = await get(this.#socketPath, path);
      const answer = JSON.parse(text) as T & { readonly message?: string };
      if (status !== 200) throw new Error(answer.message ?? `status ${String(status)}`);
      return answer;
    } catch (cause) {
      throw new TsnetError("docker", `GET ${path}: ${reason(cause)}`, { cause });
    }
  }
}

function get(
  socketPath: string,
  path: string,
  agent?: Agent,
): Promise<{ status: number | undefined; text: string }> {
  return new Promise((resolve, reject) => {
    const asked = request({ socketPath, path, timeout: TIMEOUT_MS, agent }, (answer) => {
      let text = "";
      answer.setEncoding("utf8").on("data", (part: string) => (text += part));
      answer.on("end", () => {
        resolve({ status: answer.statusCode, text });
      });
      answer.on("error", reject);
    });
    asked.on("timeout", () => asked.destroy(new Error(`no answer within ${String(TIMEOUT_MS)} ms`)));
    asked.on("error", reject);
    asked.end();
  });
}
