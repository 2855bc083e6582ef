import type * as z from "zod";
import { firstIssue, reason } from "../errors.ts";
import { bracketed } from "../ip.ts";
import { Endpoint, Network, bareAddresses } from "../model.ts";
import { keyOf } from "./keys.ts";
import type { Records } from "./migration.ts";

/**
 * What is wrong with records as a whole, one line each: what no schema allows, networks of no backend, endpoints of no
 * network, and what only one may have.
 *
 * @param backends names of those there are
 */
export function problems(records: Records, backends: readonly string[]): string[] {
  const networks = new Set<string>();
  const endpoints: Endpoint[] = [];
  const found: string[] = [];
  for (const [key, value] of records) {
    const [kind, ...ids] = key.split("/");
    const parsed =
      kind === "network"
        ? attempt(Network, value)
        : kind === "endpoint"
          ? attempt(Endpoint, value)
          : "its key is not known";
    if (typeof parsed === "string") found.push(`${key}: ${parsed}`);
    else if (key !== keyOf(parsed)) found.push(`${key}: its value is that of ${keyOf(parsed)}`);
    else if ("backend" in parsed) {
      networks.add(ids.join("/"));
      if (!backends.includes(parsed.backend)) found.push(`${key}: there is no backend "${parsed.backend}"`);
    } else endpoints.push(parsed);
  }
  for (const endpoint of endpoints)
    if (!networks.has(endpoint.network)) found.push(`${keyOf(endpoint)}: there is no such network`);
  return [...found, ...duplicates(endpoints)];
}

function attempt<T>(schema: z.ZodType<T>, value: unknown): T | string {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const { path, message } = firstIssue(parsed.error);
  return `${path}: ${reason(message)}`;
}

/** Ids, addresses and host ports that two endpoints have. */
function duplicates(endpoints: readonly Endpoint[]): string[] {
  const owners = new Map<string, string>();
  const found: string[] = [];
  for (const endpoint of endpoints)
    for (const what of uniqueThings(endpoint)) {
      const owner = owners.get(what);
      if (owner) found.push(`${keyOf(endpoint)}: ${what} is that of ${owner} too`);
      else owners.set(what, keyOf(endpoint));
    }
  return found;
}

function uniqueThings(endpoint: Endpoint): string[] {
  const { id, network, ports = [] } = endpoint;
  return [
    `id ${id}`,
    ...bareAddresses(endpoint).map((address) => `address ${address} of network ${network}`),
    ...ports.flatMap(({ protocol, host }) =>
      host ? [`host port ${bracketed(host.address)}:${host.port}/${protocol}`] : [],
    ),
  ];
}
