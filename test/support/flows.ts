import { createSocket } from "node:dgram";
import { readFileSync } from "node:fs";
import { formatIp } from "../../src/ip.ts";
import { run } from "../lab/command.ts";

/** Has the kernel keep the flows of this namespace: without a rule that asks for them it does not. */
export async function trackFlows(): Promise<void> {
  for (const program of ["iptables", "ip6tables"])
    await run([program, "-A", "OUTPUT", "-m", "conntrack", "--ctstate", "NEW"]);
}

/** Sends a datagram to each, from a port that no other one has. Whether somebody gets it is another matter. */
export async function sendUdp(to: readonly { address: string; port: number }[]): Promise<void> {
  const sockets = [];
  for (const { address, port } of to) {
    const socket = createSocket(address.includes(":") ? "udp6" : "udp4");
    // Once it is closed, its port may be the next one's.
    sockets.push(socket);
    await new Promise((resolve) => {
      socket.send("", port, address, resolve);
    });
  }
  for (const socket of sockets) socket.close();
}

/** Which of the ports there are flows of UDP to, each as its address and port: `10.1.0.9 53`. */
export function udpFlows(ports: readonly number[]): string[] {
  return flowsTo("udp", ports);
}

/** The flows of TCP to a port, likewise. */
export function tcpFlows(port: number): string[] {
  return flowsTo("tcp", [port]);
}

/** How many flows of TCP to a port are answered by that port itself: nobody has translated them. */
export function untranslatedFlows(port: number): number {
  const line = new RegExp(` tcp .* dport=${port} .* sport=${port} `, "g");
  return [...readFileSync("/proc/net/nf_conntrack", "utf8").matchAll(line)].length;
}

function flowsTo(protocol: string, ports: readonly number[]): string[] {
  const flows = readFileSync("/proc/net/nf_conntrack", "utf8").matchAll(
    new RegExp(` ${protocol} .*? dst=(\\S+) .*? dport=(\\d+)`, "g"),
  );
  return [...flows]
    .filter(([, , port]) => ports.includes(Number(port)))
    .map(([, address = "", port = ""]) => `${shortest(address)} ${port}`)
    .sort();
}

/** The table has every digit of IPv6. */
function shortest(address: string): string {
  return address.includes(":") ? formatIp(Buffer.from(address.replaceAll(":", ""), "hex")) : address;
}
