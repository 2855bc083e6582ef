import { setTimeout as sleep } from "node:timers/promises";

/**
 * Milliseconds to wait for a link of a sandbox that is no more: the kernel takes a namespace down some time after its
 * last process, when an engine that was killed is back and starts the same container again.
 */
const GONE_MS = 2000;
const LOOK_AGAIN_MS = 20;

/**
 * Waits as long as something is there that may go with a sandbox which is no more.
 *
 * @returns whether it has gone
 */
export async function hasGone(isThere: () => Promise<boolean>): Promise<boolean> {
  const deadline = performance.now() + GONE_MS;
  while (await isThere()) {
    if (performance.now() > deadline) return false;
    await sleep(LOOK_AGAIN_MS);
  }
  return true;
}
