import type { Knowledge } from "../../src/knowledge.ts";

/** An engine that has forgotten nothing. */
export const ALL_KNOWN: Knowledge = {
  knowsNetwork: () => Promise.resolve(true),
  knowsEndpoint: () => Promise.resolve(true),
  knowsBridge: () => Promise.resolve(false),
};
