/** What the engine still has; either rejects while it does not answer. */
export interface Knowledge {
  /** Whether there is a network of that id. */
  knowsNetwork(network: string): Promise<boolean>;
  /** Whether a container has that endpoint. */
  knowsEndpoint(network: string, endpoint: string): Promise<boolean>;
}

/** Milliseconds after which the engine lists what it was told is made. */
const LISTED_MS = 2000;

/**
 * Whether the engine has forgotten something, as one does that is killed while it makes it: it hands out what that has
 * again. What was made a moment ago may not be on its list yet.
 */
export async function isForgotten(
  { createdAt }: { readonly createdAt: number },
  knows: () => Promise<boolean>,
): Promise<boolean> {
  if (Date.now() - createdAt < LISTED_MS) return false;
  return await knows().then(
    (known) => !known,
    () => false,
  );
}
