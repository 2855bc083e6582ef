import { type FSWatcher, statSync, watch } from "node:fs";
import { dirname } from "node:path";

interface Watched {
  readonly watcher: FSWatcher;
  /** Of the folder. A link that was made again has another, and nobody announces the end of the one before. */
  readonly inode: number;
  onWrite: () => void;
}

/**
 * Tells when somebody writes a setting. The kernel announces few of them itself, but whoever writes one goes through
 * /proc/sys, and that is a change to a file as any other (inotify(7)).
 */
export class SysctlWatch {
  readonly #watched = new Map<string, Watched>();

  /**
   * Watches a setting and those beside it, from now on or still.
   *
   * @param name as in {@link readSysctl}; one that the kernel does not have is left out
   * @param onWrite takes the place of what was to be called for this setting's folder before
   */
  follow(name: string, onWrite: () => void): void {
    const folder = `/proc/sys/${dirname(name)}`;
    const inode = inodeOf(folder);
    const there = this.#watched.get(folder);
    if (there && there.inode === inode) {
      there.onWrite = onWrite;
      return;
    }
    this.#drop(folder);
    if (inode === undefined) return;
    try {
      const watcher = watch(folder, { persistent: false }, () => this.#watched.get(folder)?.onWrite());
      watcher.on("error", () => {
        this.#drop(folder);
      });
      this.#watched.set(folder, { watcher, inode, onWrite });
    } catch {
      // The link has just gone, or the host has no watches left (max_user_watches): it is looked at every minute.
    }
  }

  /** Forgets the settings of links that are gone. */
  sweep(): void {
    for (const [folder, { inode }] of this.#watched) if (inodeOf(folder) !== inode) this.#drop(folder);
  }

  close(): void {
    for (const folder of this.#watched.keys()) this.#drop(folder);
  }

  #drop(folder: string): void {
    this.#watched.get(folder)?.watcher.close();
    this.#watched.delete(folder);
  }
}

function inodeOf(folder: string): number | undefined {
  return statSync(folder, { throwIfNoEntry: false })?.ino;
}
