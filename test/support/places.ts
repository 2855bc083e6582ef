import { setTimeout as sleep } from "node:timers/promises";
import { FAMILIES, type Family, parseIp } from "../../src/ip.ts";
import { Ear, type Protocol } from "./ear.ts";

/** Somebody who sends and hears: a container, or the host. */
export type Place = Readonly<Record<Family, Ear>>;

/** From whom to whom something is sent. */
export interface Way {
  readonly from: Place;
  /** Bare addresses, of either family. */
  readonly to: readonly string[];
  /** Who is to get it in the end. */
  readonly at: Place;
  readonly ports?: { readonly tcp: number; readonly udp: number };
}

const PROTOCOLS: readonly Protocol[] = ["ping", "tcp", "udp"];
/** Everything that is sent along a way between two that have both families, as {@link arrivals} names it. */
export const EVERYTHING = FAMILIES.flatMap((family) => PROTOCOLS.map((one) => `${one}${String(family)}`));
/** Nobody publishes them. */
const PORTS = { tcp: 4080, udp: 4090 };
/** When nothing has arrived for this long, everything has, neighbours that had to be asked for included. */
const QUIET_MS = 250;

/** Of the packet sent last; each is known by its own, see ear.ts. */
let number = 20_000;

/** @param netns path of its namespace */
export function placeIn(netns: string): Place {
  return { 4: new Ear(netns, 4), 6: new Ear(netns, 6) };
}

export function leave(place: Place): void {
  for (const family of FAMILIES) place[family].close();
}

/** Sends along all ways at once. @returns what arrived, by the way's name */
export async function arrivals(ways: Readonly<Record<string, Way>>): Promise<Record<string, string[]>> {
  const sent = Object.entries(ways).flatMap(([name, { from, to, at, ports = PORTS }]) =>
    to.flatMap((address) =>
      PROTOCOLS.map((protocol) => {
        const { family } = parseIp(address);
        number += 1;
        from[family].say(protocol, number, address, protocol === "ping" ? 0 : ports[protocol]);
        return { name, what: `${protocol}${String(family)}`, ear: at[family], number };
      }),
    ),
  );
  const heard = await listen(new Set(sent.map(({ ear }) => ear)));
  const arrived = sent.filter((one) => heard.get(one.ear)?.has(one.number));
  return Object.fromEntries(
    Object.keys(ways).map((name) => [
      name,
      arrived.filter((one) => one.name === name).map(({ what }) => what),
    ]),
  );
}

async function listen(ears: ReadonlySet<Ear>): Promise<ReadonlyMap<Ear, ReadonlySet<number>>> {
  const heard = new Map([...ears].map((ear) => [ear, new Set<number>()]));
  for (let last = Date.now(); Date.now() - last < QUIET_MS;) {
    await sleep(QUIET_MS / 5);
    for (const [ear, numbers] of heard)
      for (const { number, answer } of ear.hear()) {
        if (answer) continue;
        numbers.add(number);
        last = Date.now();
      }
  }
  return heard;
}
