import { currentBoot } from "../../src/store/state-directory.ts";
import { Store } from "../../src/store/store.ts";

/** The store of a directory that nobody else is after, as the daemon opens it. */
export function openStore(directory: string, boot = currentBoot()): Store {
  return new Store(directory, boot, { keep: () => undefined });
}
