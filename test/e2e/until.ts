import { setTimeout as sleep } from "node:timers/promises";

const EVERY_MS = 25;

/**
 * Waits until something is so, looking again and again.
 *
 * @param what for the error: `waited for WHAT`
 * @returns the first result that is neither false nor undefined
 */
export async function until<T>(what: string, look: () => Promise<T>, timeoutMs = 10_000): Promise<T & {}> {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    const result = await look();
    if (result) return result;
    if (Date.now() > deadline) throw new Error(`waited ${String(timeoutMs)} ms for ${what}`);
    await sleep(EVERY_MS);
  }
}
