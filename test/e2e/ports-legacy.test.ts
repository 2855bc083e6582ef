import assert from "node:assert/strict";
import { LabError } from "../lab/command.ts";
import { Answerers } from "./answers.ts";
import { onNewestEngine } from "./newest-engine.ts";
import { repairs } from "./published.ts";
import { mustBeReached } from "./reached.ts";
import { repairTime } from "./rules.ts";
import { type Subnets, subnets } from "./site.ts";
import { until } from "./until.ts";

const SOON_MS = 1000;

onNewestEngine("iptables-legacy", (site) => {
  const answerers = new Answerers();
  const net: Subnets = subnets();
  const isReached = () => mustBeReached(site, net, "peer");

  before(async () => {
    site.later(() => changeTo("nft"));
    await changeTo("legacy");
    await site.network("blue", "--ipv6", "--subnet", net.v4, "--subnet", net.v6);
    await site.run("web", "blue", "-p", "8080:80", "-p", "8080:80/udp");
    await site.run("peer", "blue");
    await answerers.start(site.host, "web", [80], "web");
  });

  after(() => answerers.stop());

  it("carries published ports as nf_tables does", isReached);

  it("alone has rules of tsnet's", async () => {
    for (const program of ["iptables", "ip6tables"]) {
      assert.match((await site.exec([`${program}-legacy-save`])).stdout, /TSNET/);
      assert.doesNotMatch((await site.exec([`${program}-nft-save`])).stdout, /TSNET/);
    }
  });

  for (const [what, damage] of Object.entries({
    "every table flushed": ["mangle", "nat", "filter"]
      .flatMap((table) => [`iptables -t ${table} -F`, `ip6tables -t ${table} -F`])
      .join("\n"),
    "a port's rule deleted":
      "iptables -t nat -S | grep -m1 -e '--dport 8080 .*-j DNAT' | sed 's/^-A/-D/' | xargs iptables -t nat",
  }))
    it(`has everything back within a second, and counts it: ${what}`, async () => {
      const { length: count } = await repairs(site.host);
      const ms = await repairTime(site, damage);
      assert.ok(ms < SOON_MS, `${String(ms)} ms`);
      await until("the repair to be counted", async () => (await repairs(site.host)).length > count, SOON_MS);
      await isReached();
    });

  it("is not mixed with nf_tables: tsnet says what to do, and makes no network", async () => {
    await site.host.stopTsnet();
    await alternatives("nft");
    try {
      // Either it does not start, or it makes no network.
      const problem = await site.host.startTsnet().then(
        () => site.refused("network", "create", "-d", "tsnet", "mixed"),
        (error: unknown) => (error instanceof LabError ? error.message : String(error)),
      );
      assert.match(problem, /iptables-legacy/);
      assert.match(problem, /update-alternatives/);
      assert.doesNotMatch((await site.exec(["iptables-nft-save"])).stdout, /TSNET/);
    } finally {
      await site.host.stopTsnet();
      await alternatives("legacy");
      await site.host.startTsnet();
    }
    await isReached();
  });

  /** Has the host, which has no networks, use another iptables from the ground up. */
  async function changeTo(variant: "legacy" | "nft"): Promise<void> {
    await site.host.stopEngine();
    await site.host.stopTsnet();
    for (const program of ["iptables", "ip6tables"]) {
      await site.exec([program, "-P", "FORWARD", "ACCEPT"]);
      for (const table of ["raw", "mangle", "nat", "filter"])
        for (const flag of ["-F", "-X"]) await site.exec([program, "-t", table, flag]);
    }
    await alternatives(variant);
    await site.host.startTsnet();
    await site.host.startEngine();
  }

  /** As update-alternatives does it, in the host's own /etc. */
  async function alternatives(variant: "legacy" | "nft"): Promise<void> {
    for (const program of ["iptables", "ip6tables"])
      for (const part of ["", "-save", "-restore"]) {
        const name = `${program}${part}`;
        await site.exec(["ln", "-sf", `/usr/sbin/${program}-${variant}${part}`, `/etc/alternatives/${name}`]);
      }
  }
});
