import { type FSWatcher, statSync, watch } from "node:fs";
import { dirname } from "node:path";

/** The other file by which the same setting is written (devinet_sysctl_forward, net/ipv4/devinet.c). */
const ALSO: Readonly<Record<string, string>> = { "net/ipv4/ip_forward": "net/ipv4/conf/all/forwarding" };

interface Watched {
  readonly watcher: FSWatcher;
  /** Of the folder. A link that was made again has another, and nobody announces the end of the one before. */
  readonly inode: number;
  /** By whoever follows it: many may follow a setting of the whole host. */
  readonly followers: Map<string, () => void>;
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
   * @param follower whose `onWrite` takes the place of what was to be called for it in this setting's folder before
   */
  follow(name: string, follower: string, onWrite: () => void): void {
    const also = ALSO[name];
    for (const file of also ? [name, also] : [name])
      this.#followIn(`/proc/sys/${dirname(file)}`, follower, onWrite);
  }

  #followIn(folder: string, follower: string, onWrite: () => void): void {
    const inode = inodeOf(folder);
    const there = this.#watched.get(folder);
    if (there && there.inode === inode) {
      there.followers.set(follower, onWrite);
      return;
    }
    const followers = new Map(there?.followers).set(follower, onWrite);
    this.#drop(folder);
    if (inode === undefined) return;
    try {
      const watcher = watch(folder, { persistent: false }, () => {
        for (const tell of followers.values()) tell();
      });
      watcher.on("error", () => {
        this.#drop(folder);
      });
      this.#watched.set(folder, { watcher, inode, followers });
    } catch {
      // The link has just gone, or the host has no watches left (max_user_watches): it is looked at every minute.
    }
  }

  /** Forgets the settings of links that are gone, and followers who are not there any more. */
  sweep(isThere: (follower: string) => boolean): void {
    for (const [folder, { inode, followers }] of this.#watched) {
      for (const follower of followers.keys()) if (!isThere(follower)) followers.delete(follower);
      if (inodeOf(folder) !== inode || followers.size === 0) this.#drop(folder);
    }
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
