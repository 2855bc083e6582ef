import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { isDeepStrictEqual } from "node:util";
import { currentBoot, readStore } from "../../src/store/state-directory.ts";
import { interfaces } from "./interfaces.ts";
import type { Place, Site } from "./site.ts";

/** How long the kernel may take for a link that goes: nobody waits for it before the engine is answered. */
const GONE_MS = 2000;
const LOOK_AGAIN_MS = 50;

/** Everything on a host that networks and containers leave their marks on, as text that can be compared. */
export interface Snapshot {
  /** Name, kind, MTU, MAC, master and addresses of each link. */
  readonly links: readonly string[];
  readonly routes: readonly string[];
  /** Chains and rules of each family and table, without counters. */
  readonly rules: readonly string[];
  readonly listening: readonly string[];
  /** Keys in tsnet's store. */
  readonly records: readonly string[];
}

/** A host with tsnet on it, where commands can run. */
type On = Place & Pick<Site, "host">;

/** What is on a host now. */
export async function onHost(site: On): Promise<Snapshot> {
  const [links, routes, rules, listening] = await Promise.all([
    linksOf(site),
    routesOf(site),
    rulesOf(site),
    listeningOn(site),
  ]);
  return { links, routes, rules, listening, records: recordsOf(site) };
}

/** Fails if a host is not soon as it was. */
export async function mustBe(before: Snapshot, site: On, withinMs = GONE_MS): Promise<void> {
  const deadline = Date.now() + withinMs;
  let now = await onHost(site);
  while (!isDeepStrictEqual(now, before) && Date.now() < deadline) {
    await sleep(LOOK_AGAIN_MS);
    now = await onHost(site);
  }
  assert.deepEqual(now, before);
}

/** Keys in tsnet's store, which can be read while it runs. */
export function recordsOf({ host }: Pick<Site, "host">): string[] {
  return [...(readStore(host.stateDir, currentBoot())?.records.keys() ?? [])].sort();
}

async function linksOf(place: Place): Promise<string[]> {
  const all = Object.values(await interfaces(place));
  return all.map(({ ifname, linkinfo, mtu, address, master, addr_info }) => {
    // A link-local address comes and goes with the carrier.
    const own = addr_info.filter(({ scope }) => scope !== "link");
    const addresses = own.map(({ local, prefixlen }) => `${local}/${String(prefixlen)}`);
    return [ifname, linkinfo?.info_kind, mtu, address, master, ...addresses].join(" ");
  });
}

async function routesOf(place: Place): Promise<string[]> {
  const all = [await lines(place, ["ip", "-4", "route"]), await lines(place, ["ip", "-6", "route"])];
  // Whether a bridge has ports at the moment says nothing about what is left.
  const routes = all.flat().map((route) => route.replace("linkdown", "").trim());
  return routes.filter((route) => !/^fe80|^multicast/.test(route));
}

async function rulesOf(place: Place): Promise<string[]> {
  const all = [await lines(place, ["iptables-save"]), await lines(place, ["ip6tables-save"])];
  const rules = all.flatMap((family, index) => {
    let table = "";
    return family.flatMap((line) => {
      if (line.startsWith("*")) table = line;
      // `:NAME -` is a chain that somebody made, the others are the kernel's own.
      const chain = /^:\S+ -/.exec(line)?.[0];
      if (!chain && !line.startsWith("-A ")) return [];
      return `${index === 0 ? "IPv4" : "IPv6"} ${table} ${chain ?? line}`;
    });
  });
  // The engine puts its own into another order at times, and its jumps there twice.
  return [...new Set(rules)].sort();
}

async function listeningOn(place: Place): Promise<string[]> {
  const inet = await lines(place, ["ss", "-Hlntu"]);
  const unix = await lines(place, ["ss", "-Hlx"]);
  return [
    ...inet.map((line) => `${column(line, 0)} ${column(line, 4)}`),
    // The engine's own for its containers' hooks has another name after each start, and so has what has none.
    // A shim's is the engine's to remove, and one that was killed may not.
    ...unix
      .filter((line) => !line.includes("/run/containerd/s/"))
      .map((line) => column(line, 4).replace(/[0-9a-f]{12}\.sock$|^@[0-9a-f]{5}$/, "…")),
  ].sort();
}

async function lines(place: Place, command: readonly string[]): Promise<string[]> {
  const { stdout } = await place.exec(command);
  return stdout.split("\n").filter((line) => line.trim() !== "");
}

function column(line: string, index: number): string {
  return line.trim().split(/\s+/)[index] ?? "";
}
