/** What the engine still has; each rejects while it does not answer. */
export interface Knowledge {
  /** Whether there is a network of that id. */
  knowsNetwork(network: string): Promise<boolean>;
  /** Whether a container has that endpoint. */
  knowsEndpoint(network: string, endpoint: string): Promise<boolean>;
  /** Whether a network of its own bridge driver has that bridge. */
  knowsBridge(bridge: string): Promise<boolean>;
}

/**
 * Whether something was made less than so many milliseconds before a moment, or after it. What a clock that was ahead
 * has dated into the future is not young: it would stay so until the clock had caught up.
 */
export function isYoung(
  { createdAt }: { readonly createdAt: number },
  ms: number,
  moment = Date.now(),
): boolean {
  return createdAt <= Date.now() && moment - createdAt < ms;
}

/** Milliseconds after which the engine lists what it was told is made. */
const LISTED_MS = 2000;

/**
 * Whether the engine has forgotten something, as one does that is killed while it makes it: it hands out what that has
 * again. What was made a moment ago may not be on its list yet.
 */
export async function isForgotten(
  made: { readonly createdAt: number },
  knows: () => Promise<boolean>,
): Promise<boolean> {
  if (isYoung(made, LISTED_MS)) return false;
  return await knows().then(
    (known) => !known,
    () => false,
  );
}
