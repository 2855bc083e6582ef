import { IncomingMessage, type Server, ServerResponse, createServer as createHttpServer } from "node:http";
import express, {
  type ErrorRequestHandler,
  type Express,
  type RequestHandler,
  type Response,
  type Router,
} from "express";
import type { Logger } from "pino";
import * as z from "zod";
import { InvalidError, TsnetError, firstIssue, reason } from "../errors.ts";
import type { Method } from "./network-driver.ts";

/** A request of a container with a few thousand published ports is below it. */
const BODY_LIMIT = "4mb";

/** What the plugin answers to Plugin.Activate: the engine asks once in its life. */
const IMPLEMENTS = ["NetworkDriver"];

/**
 * Docker's plugin protocol over HTTP. A reply that says no is `200 {Err, Error, Code}`: NetworkDriver reads Err,
 * IpamDriver reads Error; 400 and 413 are for what cannot be read, 404 only for a path that does not exist,
 * which libnetwork takes for "not supported".
 *
 * @param admin what tsnet's own commands ask, on the same socket
 */
export function createServer(methods: Record<string, Method>, log: Logger, admin: Router): Server {
  const app = express();
  app.disable("x-powered-by");
  app.disable("etag");
  // The engine sends no Content-Type.
  app.use(express.json({ type: () => true, limit: BODY_LIMIT }));
  const routes = new Map(Object.entries(methods).map(([path, method]) => [path, route(path, method, log)]));
  // One route for all of them: the router tries one after the other.
  app.post("/:method", (request, response, next) => {
    const handle = routes.get(request.params.method);
    if (handle) void handle(request, response, next);
    else next();
  });
  app.post("/Plugin.Activate", (_, response) => {
    reply(response, 200, { Implements: IMPLEMENTS });
  });
  app.use(admin);
  app.use((request, response) => {
    refuse(response, 404, new TsnetError("unsupported", `no such method: ${request.method} ${request.path}`));
  });
  app.use(unreadable(log));
  return serverOf(app);
}

/**
 * A server whose requests and responses are express's own from the start. Express gives each of Node's another
 * prototype, and whatever is set on such an object afterwards has V8 describe it anew (up to Node 20: half of a request's
 * time).
 */
function serverOf(app: Express): Server {
  class AppRequest extends IncomingMessage {}
  class AppResponse extends ServerResponse {}
  Object.setPrototypeOf(AppRequest.prototype, app.request);
  Object.setPrototypeOf(AppResponse.prototype, app.response);
  Object.assign(app, { request: AppRequest.prototype, response: AppResponse.prototype });
  return createHttpServer({ IncomingMessage: AppRequest, ServerResponse: AppResponse }, app);
}

function route(path: string, { request: schema, handle }: Method, log: Logger): RequestHandler {
  const name = path.replace(/^.*\./, "");
  return async (request, response) => {
    const start = performance.now();
    const ids = idsOf(request.body);
    const done = (level: "info" | "warn", message: string, more: object = {}) => {
      log[level](
        { method: name, ...ids, ms: Math.round((performance.now() - start) * 10) / 10, ...more },
        message,
      );
    };
    try {
      // The parser makes an object of an empty body too.
      const given: unknown = request.headers["content-length"] === "0" ? undefined : request.body;
      const body = schema ? parse(name, schema, given) : undefined;
      reply(response, 200, await handle(body));
      done("info", "request");
    } catch (error) {
      refuse(response, error instanceof UnreadableError ? 400 : 200, error, name);
      done("warn", "request failed", failure(error));
    }
  };
}

/** A request that is not what the protocol says: nothing was tried. */
class UnreadableError extends InvalidError {}

/**
 * An empty body must be refused: when the connection breaks after a request was sent, the engine sends it again
 * without its body, and takes any 200 for success.
 */
function parse(name: string, schema: z.ZodType, body: unknown): unknown {
  if (body === undefined) throw new UnreadableError("empty request body; nothing was done");
  const parsed = schema.safeParse(body);
  if (parsed.success) return parsed.data;
  const { path, message } = firstIssue(parsed.error);
  throw new UnreadableError(`${[name, path].filter(Boolean).join(".")}: ${message}`);
}

function unreadable(log: Logger): ErrorRequestHandler {
  return (error: unknown, request, response, _next) => {
    const status = (error as { status?: number }).status === 413 ? 413 : 400;
    log.warn({ method: request.path.slice(1), reason: reason(error) }, "request could not be read");
    refuse(response, status, new InvalidError(reason(error)), request.path.replace(/^.*\./, ""));
  };
}

function refuse(response: Response, status: number, error: unknown, method = ""): void {
  const text = reason(error);
  const message = method && !text.startsWith(method) ? `${method}: ${text}` : text;
  const code = error instanceof TsnetError ? error.code : "internal";
  reply(response, status, { Err: message, Error: message, Code: code });
}

/**
 * Express's own way looks for what a browser might want first, and takes longer than many a request. A text goes out in
 * one write with its head, a buffer in a second one.
 */
function reply(response: Response, status: number, body: unknown): void {
  const text = JSON.stringify(body);
  const head = { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(text) };
  response.writeHead(status, head).end(text);
}

/** What tsnet refuses on purpose needs no stack trace in the log. */
function failure(error: unknown): object {
  return error instanceof TsnetError ? { reason: error.message } : { err: error };
}

function idsOf(body: unknown): { network?: unknown; endpoint?: unknown } {
  const { NetworkID, EndpointID } = (typeof body === "object" && body ? body : {}) as Record<string, unknown>;
  return {
    ...(typeof NetworkID === "string" ? { network: NetworkID } : {}),
    ...(typeof EndpointID === "string" ? { endpoint: EndpointID } : {}),
  };
}
