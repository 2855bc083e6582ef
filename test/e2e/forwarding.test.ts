import assert from "node:assert/strict";
import type { EngineLine } from "../lab/engines.ts";
import { LabHost } from "../lab/host.ts";
import { BOX } from "../lab/image.ts";
import { Underlay } from "../lab/underlay.ts";
import { engineOrSkip } from "../support/engine-or-skip.ts";
import { pings } from "./packets.ts";
import { subnets } from "./site.ts";
import { until } from "./until.ts";

/** A host behind the host that is none of Docker's, in a namespace on it. */
const FAR = "fd55::2";

/** Engines by what they do with ip6tables; the first sets no policy where it finds IPv6 forwarding on. */
const ENGINES: readonly (readonly [EngineLine, string])[] = [
  ["28.5", "keeps ip6tables"],
  ["26.1", "leaves ip6tables alone"],
];

for (const [line, how] of ENGINES)
  describe(`a host that was no IPv6 router, whose engine ${line} starts after tsnet and ${how}`, function () {
    this.timeout(180_000);
    const [blue, plain] = [subnets(), subnets()];
    let underlay: Underlay | undefined;
    let near: LabHost;
    let host: LabHost;

    before(async function () {
      this.timeout(900_000);
      underlay = await Underlay.start({ name: "fwd6" });
      near = await LabHost.start({ name: "fwd6-near", underlay });
      const starting = LabHost.start({ name: "fwd6-host", engine: line, underlay, tsnet: true });
      host = await engineOrSkip(this, starting);
      await network("blue", "tsnet", blue.v4, blue.v6);
      await network("plain", "bridge", plain.v4, plain.v6);
      await farHost();
      for (const subnet of ["fd55::/64", blue.v6, plain.v6])
        await near.exec(["ip", "route", "add", subnet, "via", host.address?.v6 ?? assert.fail()]);
      await host.stopEngine();
      await host.stopTsnet();
      await startAnew();
    });
    after(async () => {
      for (const machine of [host, near, underlay]) await machine?.stop();
    });

    it("stays none before and after the engine has started", async () => {
      // The way is there, and only the policy closes it.
      await host.exec(["sysctl", "-q", "net.ipv6.conf.all.forwarding=1"]);
      assert.equal(await pings(near, FAR), true);
      await host.exec(["sysctl", "-q", "net.ipv6.conf.all.forwarding=0"]);
      await host.startTsnet();
      await until("IPv6 forwarding", async () => {
        return (await host.exec(["sysctl", "-n", "net.ipv6.conf.all.forwarding"])).stdout.trim() === "1";
      });
      assert.equal(await pings(near, FAR, { expected: false }), false);
      await host.startEngine();
      await host.docker("run", "-d", "--name", "ours", "--network", "blue", BOX);
      assert.equal(await pings(container("ours"), near.address?.v6 ?? ""), true);
      if (how === "keeps ip6tables") assert.equal(await pings(near, FAR, { expected: false }), false);
    });

    it("lets the engine's own containers through", async () => {
      await host.docker("run", "-d", "--name", "theirs", "--network", "plain", BOX);
      // It asks every second whether there is an engine yet.
      const reached = async () =>
        await pings(container("theirs"), near.address?.v6 ?? "", { expected: how === "keeps ip6tables" });
      await until("the engine's container to reach the outside", reached);
    });

    async function network(name: string, driver: string, v4: string, v6: string): Promise<void> {
      const pools = ["--ipv6", "--subnet", v4, "--subnet", v6];
      await host.docker("network", "create", "-d", driver, ...pools, name);
    }

    function container(name: string) {
      return { exec: (argv: readonly string[], options = {}) => host.inContainer(name, argv, options) };
    }

    async function farHost(): Promise<void> {
      const script = `set -e
        ip netns add far
        ip link add far0 type veth peer name eth0 netns far
        ip address add fd55::1/64 dev far0 nodad && ip link set far0 up
        ip -n far address add ${FAR}/64 dev eth0 nodad && ip -n far link set eth0 up
        ip -n far route add default via fd55::1`;
      await host.exec(["sh", "-c", script]);
    }

    /** What is left of rules, bridges and settings when a machine starts: nothing. */
    async function startAnew(): Promise<void> {
      const script = `set -e
        for program in iptables ip6tables; do
          for table in raw mangle nat filter; do $program -w -t $table -F; $program -w -t $table -X; done
          $program -w -P FORWARD ACCEPT
        done
        for link in $(ip -o link show type bridge | sed 's/^[0-9]*: \\([^:@]*\\).*/\\1/'); do ip link delete $link; done
        sysctl -q net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0`;
      await host.exec(["sh", "-c", script]);
    }
  });
