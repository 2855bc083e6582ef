import { type LabHost, TSNET_MAIN } from "../lab/host.ts";
import type { Place } from "./site.ts";

/** One line of `tsnet ports --json`. */
interface PortView {
  readonly container: string;
  readonly network: string;
  readonly protocol: string;
  readonly host?: { readonly address: string; readonly port: number };
  readonly target: { readonly address: string; readonly port: number };
}

/** What tsnet's own command prints. */
export async function tsnet(host: Place, ...args: string[]): Promise<string> {
  return (await host.exec([process.execPath, TSNET_MAIN, ...args])).stdout;
}

/** The published ports of a host, as `tsnet ports --json` tells them. */
export async function published(host: Place): Promise<PortView[]> {
  return JSON.parse(await tsnet(host, "ports", "--json")) as PortView[];
}

/** Those of one container, each as `HOST:PORT>PORT/PROTOCOL`, sorted; `routed` in place of a host's address and port. */
export async function publishedBy(host: Place, container: string): Promise<string[]> {
  const all = await published(host);
  return all
    .filter((port) => port.container === container)
    .map(({ host: at, target, protocol }) => {
      const where = at ? `${bracket(at.address)}:${String(at.port)}` : "routed";
      return `${where}>${String(target.port)}/${protocol}`;
    })
    .sort();
}

/** What tsnet has repaired since it started, in the order of its log. */
export async function repairs(host: LabHost): Promise<string[]> {
  const log = (await host.tsnetLog()).split("\n").filter((line) => line.includes('"drift repaired"'));
  return log.map((line) => (JSON.parse(line) as { what: string }).what);
}

function bracket(address: string): string {
  return address.includes(":") ? `[${address}]` : address;
}

/** What has `docker run` publish a port. */
export function publish(form: string): string[] {
  return ["-p", form];
}

/** What gives a network an option of the engine's bridge driver. */
export function option(text: string): string[] {
  return ["-o", `com.docker.network.bridge.${text}`];
}
