import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";

/** Waits until the condition holds. Errors count as no. Fails after the time, with what it was waiting for. */
export async function until(
  what: string,
  condition: () => unknown,
  { timeoutMs = 10_000, everyMs = 5 } = {},
): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    try {
      if (await condition()) return;
    } catch {
      // Not yet.
    }
    assert.ok(performance.now() < deadline, `waited ${timeoutMs} ms in vain: ${what}`);
    await sleep(everyMs);
  }
}
