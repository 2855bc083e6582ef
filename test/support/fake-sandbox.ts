import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { bare } from "../../src/ip.ts";
import type { EndpointRequest } from "../../src/model.ts";
import { run } from "../lab/command.ts";
import { ip } from "./isolated.ts";

/** A network namespace that stands for a container's. */
export class FakeSandbox {
  readonly path: string;
  readonly #child: ChildProcess;

  private constructor(child: ChildProcess) {
    this.#child = child;
    this.path = `/proc/${String(child.pid)}/ns/net`;
  }

  static async start(): Promise<FakeSandbox> {
    const script = "ip link set lo up; echo 1; exec sleep infinity";
    const child = spawn("setpriv", ["--pdeathsig=KILL", "unshare", "--net", "sh", "-c", script], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    await once(child.stdout, "data");
    return new FakeSandbox(child);
  }

  /** Does what the engine does with an endpoint's link. */
  async take({ id: endpoint, ipv4, ipv6 }: EndpointRequest, name: string): Promise<void> {
    await ip(`link set tsc${endpoint.slice(0, 12)} netns ${String(this.#child.pid)} name ${name}`);
    const cidrs = [ipv4, ipv6].filter((cidr) => cidr !== undefined);
    for (const cidr of cidrs)
      await this.ip(`address add ${cidr} ${cidr.includes(":") ? "" : "broadcast +"} dev ${name} nodad`);
    await this.ip(`link set ${name} up`);
    for (const cidr of cidrs) await this.ip(`route add default via ${bare(cidr).replace(/\d+$/, "1")}`);
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  async ip(command: string): Promise<string> {
    return (await run(["nsenter", `--net=${this.path}`, "ip", ...command.split(/ +/)])).stdout;
  }

  async links(): Promise<string[]> {
    const all = JSON.parse(await this.ip("-j link")) as { ifname: string }[];
    return all.map(({ ifname }) => ifname).sort();
  }

  async describe(name = "eth0") {
    const [link] = JSON.parse(await this.ip(`-j -d address show ${name}`)) as {
      mtu: number;
      address: string;
      flags: string[];
      linkinfo: { info_kind: string };
      addr_info: { local: string; broadcast?: string; prefixlen: number; scope: string }[];
    }[];
    assert.ok(link);
    const defaults = await Promise.all(
      ["-4", "-6"].map(async (family) => {
        const all = JSON.parse((await this.ip(`-j ${family} route show default dev ${name}`)) || "[]") as {
          gateway: string;
        }[];
        return all.map(({ gateway }) => `default via ${gateway}`);
      }),
    );
    return {
      ...{ mtu: link.mtu, mac: link.address, flags: link.flags, kind: link.linkinfo.info_kind },
      addresses: link.addr_info
        .filter(({ scope }) => scope === "global")
        .map(({ local, prefixlen, broadcast = "none" }) => `${local}/${String(prefixlen)} brd ${broadcast}`),
      routes: defaults.flat(),
    };
  }

  async end(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const gone = once(this.#child, "exit");
    this.#child.kill("SIGKILL");
    await gone;
  }
}
