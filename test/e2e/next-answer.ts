import { until } from "../support/until.ts";
import type { Site } from "./site.ts";

/** A request of an operation is there within seconds, also on a slow machine. */
const ASKED_MS = 20_000;

/** @returns what waits until tsnet has answered the next such request */
export async function nextAnswer({ host }: Site, method: string): Promise<() => Promise<void>> {
  const { length } = await host.tsnetLog();
  return async () => {
    const isThere = async () => (await host.tsnetLog()).includes(`"method":"${method}"`, length);
    // The engine's next request is a few milliseconds away.
    await until(`an answer to ${method}`, isThere, { timeoutMs: ASKED_MS, everyMs: 1 });
  };
}
