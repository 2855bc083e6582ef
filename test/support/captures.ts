import { readFileSync, readdirSync } from "node:fs";
import { basename, join } from "node:path";

/** A request that an engine sent to a plugin, as it was captured. */
export interface Captured {
  /** `NetworkDriver.Join` */
  readonly method: string;
  readonly host: string;
  readonly length: number;
  /** Undefined where none was sent. */
  readonly body: Readonly<Record<string, unknown>> | undefined;
}

const DIRECTORY = join(import.meta.dirname, "../protocol/captures");

interface Line {
  readonly dir: "request" | "response";
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Readonly<Record<string, unknown>> | null;
}

/** Engines by version, each with the requests of one scripted scenario in the order in which they were sent. */
export function captures(): { version: string; requests: Captured[] }[] {
  return readdirSync(DIRECTORY)
    .sort()
    .map((file) => ({
      version: basename(file, ".jsonl"),
      requests: readFileSync(join(DIRECTORY, file), "utf8")
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line) as Line)
        .filter(({ dir, path }) => dir === "request" && !path.startsWith("/IpamDriver."))
        .map(({ path, headers, body }) => ({
          method: path.slice(1),
          host: headers["Host"] ?? "",
          length: Number(headers["Content-Length"]),
          body: body ?? undefined,
        })),
    }));
}
