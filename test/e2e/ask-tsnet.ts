import type { Place } from "./site.ts";

/** Asks a host's tsnet on its socket, as the engine does where there is a body. */
export async function askTsnet(host: Place, path: string, body?: object): Promise<unknown> {
  const curl = ["curl", "-s", "--unix-socket", "/run/docker/plugins/tsnet.sock", `http://tsnet/${path}`];
  const { stdout } = body
    ? await host.exec([...curl, "-d", "@-"], { input: JSON.stringify(body) })
    : await host.exec(curl);
  return JSON.parse(stdout);
}

/** What `tsnet status` says is degraded, by owner. */
export async function degraded(host: Place): Promise<Record<string, string>> {
  return ((await askTsnet(host, "tsnet/status")) as { degraded: Record<string, string> }).degraded;
}
