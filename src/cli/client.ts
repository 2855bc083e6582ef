import { request } from "node:http";
import { text } from "node:stream/consumers";
import { Command } from "commander";
import { readSetting } from "../config.ts";
import { TsnetError, isErrno, reason } from "../errors.ts";
import { withSetting } from "./setting.ts";

/** Milliseconds after which a daemon is taken for stuck. */
const TIMEOUT_MS = 15_000;

/**
 * A command that shows what the daemon answers, as text or as JSON.
 *
 * @param path of the daemon's API
 * @param render makes text of the answer
 */
export function query(
  name: string,
  description: string,
  path: string,
  render: (answer: unknown) => string,
): Command {
  return withSetting(new Command(name).description(description), "socket")
    .option("--json", "print JSON")
    .action(async ({ socket, json }: { socket?: string; json?: boolean }) => {
      const answer = await ask(readSetting("socket", socket, process.env), path);
      process.stdout.write(json ? `${JSON.stringify(answer, null, 2)}\n` : render(answer));
    });
}

/**
 * Asks the daemon.
 *
 * @param socket where the daemon listens
 * @throws {TsnetError} that says what to do, if none answers
 */
async function ask(socket: string, path: string): Promise<unknown> {
  const { status, body } = await get(socket, path).catch((cause: unknown) => {
    const isDenied = isErrno(cause, "EACCES", "EPERM");
    const why = isDenied
      ? `permission denied to ask the daemon at ${socket}; run this as root`
      : `no tsnet daemon at ${socket}: ${reason(cause)}; is \`tsnet daemon\` running?`;
    throw new TsnetError("busy", why, { cause });
  });
  try {
    if (status === 200) return JSON.parse(body);
  } catch {
    // Whoever that is, it is not tsnet.
  }
  throw new TsnetError("busy", `the daemon at ${socket} answered ${status}: ${body.trim()}`);
}

function get(socketPath: string, path: string): Promise<{ status: number; body: string }> {
  return new Promise((resolve, reject) => {
    const call = request({ socketPath, path, timeout: TIMEOUT_MS }, (reply) => {
      const status = reply.statusCode ?? 0;
      text(reply).then((body) => {
        resolve({ status, body });
      }, reject);
    });
    call.on("timeout", () => call.destroy(new Error("no answer within 15 s")));
    call.on("error", reject);
    call.end();
  });
}
