import type { Host } from "../kernel/host.ts";
import type { Engine } from "./engine.ts";

/** What the engine calls its bridges unless a user chose a name. */
const USUAL = /^(docker0|docker_gwbridge|br-[0-9a-f]{12})$/;

/**
 * Names of the bridges that hold the engine's own containers: by the name, which is known as soon as the link is
 * there, and by the engine's word for those that a user named.
 */
export async function engineBridges(host: Host, engine: Engine): Promise<string[]> {
  const links = (await host.links.list()).filter(({ kind }) => kind === "bridge").map(({ name }) => name);
  let named: readonly (string | undefined)[] = [];
  try {
    named = (await engine.networks()).map(({ bridge }) => bridge);
  } catch {
    // No engine answers; the usual names are all there is to go by.
  }
  return links.filter((name) => USUAL.test(name) || named.includes(name)).sort();
}
