import { closeSync, existsSync, openSync } from "node:fs";
import { dirname } from "node:path";
import { KernelError, errnoOf, isErrno } from "../errors.ts";
import { Addresses } from "./address.ts";
import { Links } from "./link.ts";
import { Rtnetlink } from "./netlink/rtnetlink.ts";
import { inNetns } from "./netns.ts";
import { Routes } from "./route.ts";
import { writeSysctl } from "./sysctl.ts";

/** The inside of a container's network namespace. */
export class Sandbox {
  /** Open descriptor of the namespace. */
  readonly netns: number;
  readonly links: Links;
  readonly addresses: Addresses;
  readonly routes: Routes;
  readonly #netlink: Rtnetlink;

  private constructor(netns: number) {
    this.netns = netns;
    this.#netlink = inNetns(netns, () => new Rtnetlink());
    this.links = new Links(this.#netlink);
    this.addresses = new Addresses(this.#netlink);
    this.routes = new Routes(this.#netlink);
  }

  /**
   * Does something in a sandbox.
   *
   * @param path as the engine's Join gives it
   * @returns undefined if it is gone, or not there yet: before engine 28 it comes after Join, first as an empty file
   */
  static async within<T>(path: string, fn: (inside: Sandbox) => Promise<T>): Promise<T | undefined> {
    const inside = Sandbox.#open(path);
    if (!inside) return undefined;
    try {
      return await fn(inside);
    } finally {
      inside.#close();
    }
  }

  static #open(path: string): Sandbox | undefined {
    let netns: number;
    try {
      netns = openSync(path, "r");
    } catch (error) {
      // EACCES: a process that ended in this moment (proc_ns_get_link, fs/proc/namespaces.c).
      if (isErrno(error, "ENOENT") || (isErrno(error, "EACCES") && path.startsWith("/proc/")))
        return undefined;
      throw new KernelError(`open ${path}`, errnoOf(error), "", { cause: error });
    }
    try {
      return new Sandbox(netns);
    } catch (error) {
      closeSync(netns);
      if (isErrno(error, "EINVAL")) return undefined;
      throw error;
    }
  }

  /** Writes a setting of this namespace, see {@link writeSysctl}. */
  setSysctl(name: string, value: string): void {
    inNetns(this.netns, () => {
      writeSysctl(name, value);
    });
  }

  #close(): void {
    this.#netlink.close();
    closeSync(this.netns);
  }
}

/**
 * Whether a sandbox's network namespace, which the engine keeps as a file while it lives, is no more.
 *
 * @param path as Join gave it; where its folder cannot be seen from here, nothing is known and the answer is no
 */
export function isRemoved(path: string): boolean {
  return existsSync(dirname(path)) && !existsSync(path);
}
