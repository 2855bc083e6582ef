import type { Command } from "commander";
import type { PortView } from "../api/admin.ts";
import { bracketed } from "../ip.ts";
import { query } from "./client.ts";
import { table } from "./table.ts";

/** `tsnet ports`: what `docker ps` cannot show of a plugin's networks. */
export function portsCommand(): Command {
  return query(
    "ports",
    "list published ports by container (docker ps cannot show those of a plugin's networks)",
    "/tsnet/ports",
    (answer) => render(answer as PortView[]),
  );
}

function render(ports: readonly PortView[]): string {
  const rows = ports.map(({ container, endpoint, network, protocol, host, target }) => [
    container || endpoint.slice(0, 12),
    network,
    host ? `${bracketed(host.address)}:${host.port}` : "(routed)",
    `${bracketed(target.address)}:${target.port}/${protocol}`,
  ]);
  return table(["CONTAINER", "NETWORK", "HOST", "TO"], rows);
}
