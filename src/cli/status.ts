import type { Command } from "commander";
import type { StatusView } from "../api/admin.ts";
import { query } from "./client.ts";
import { table } from "./table.ts";

/** `tsnet status`: how many networks there are, what was repaired, and what cannot be. */
export function statusCommand(): Command {
  return query(
    "status",
    "count networks and endpoints, and show what was repaired and what cannot be",
    "/tsnet/status",
    (answer) => render(answer as StatusView),
  );
}

function render({ networks, endpoints, publishedPorts, drift, degraded }: StatusView): string {
  const counts = [
    ["networks", String(networks)],
    ["endpoints", String(endpoints)],
    ["published ports", String(publishedPorts)],
    ...Object.entries(drift).map(([kind, count]) => [`repaired: ${kind}`, String(count)]),
  ];
  const broken = Object.entries(degraded);
  return (
    table(["WHAT", "COUNT"], counts) + (broken.length === 0 ? "" : `\n${table(["DEGRADED", "WHY"], broken)}`)
  );
}
