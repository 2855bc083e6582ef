import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { run } from "../lab/command.ts";
import { programOf, useIptables } from "../support/iptables-variant.ts";
import { flushRules, hostState, mustBeIsolated, setSysctl, wipe } from "../support/isolated.ts";
import { NETWORKS, PORTS, endpointOf } from "../support/networks.ts";
import { Site } from "../support/site.ts";
import { until } from "../support/until.ts";

/** By then the daemon has looked at the tables, see legacy-rules.ts. */
const LOOKED_MS = 300;

describe("a host whose iptables is iptables-legacy", () => {
  const network = NETWORKS["dual stack"] ?? assert.fail();
  const endpoint = endpointOf(network);
  let restorePath: () => Promise<void>;
  let site: Site;

  before(async () => {
    mustBeIsolated();
    restorePath = await useIptables("legacy");
    await setSysctl("net/ipv4/ip_forward", "1");
    await setSysctl("net/ipv6/conf/all/forwarding", "1");
  });
  beforeEach(() => {
    site = new Site();
  });
  afterEach(async () => {
    await site.stop();
    await wipe();
  });
  after(() => restorePath());

  const make = async () => {
    await site.driver.createNetwork(network);
    await site.driver.createEndpoint(endpoint);
    await site.driver.ports.publish(network.id, endpoint.id, PORTS);
  };

  it("gets its rules there, not in nf_tables, and is left as it was", async () => {
    const before = await hostState();
    await make();
    const { rules } = await hostState();
    for (const family of [4, 6] as const) assert.match(rules[family].join("\n"), /-j DNAT/);
    for (const program of ["iptables-save", "ip6tables-save"])
      assert.doesNotMatch((await run([programOf("nf_tables", program)])).stdout, /TSNET/);
    await site.driver.deleteNetwork(network.id);
    assert.deepEqual(await hostState(), before);
  });

  for (const chains of [false, true])
    it(`gets its rules back within a second when they are flushed by hand${chains ? ", chains and all" : ""}, although the kernel tells nobody`, async () => {
      await site.reconciler.start();
      await make();
      const made = await hostState();
      // What is made and flushed between two looks is found by the timer only.
      await sleep(LOOKED_MS);
      await flushRules({ chains });
      const start = Date.now();
      const sorted = ({ rules }: typeof made) => [[...rules[4]].sort(), [...rules[6]].sort()];
      await until("they are back", async () => {
        assert.deepEqual(sorted(await hostState()), sorted(made));
        return true;
      });
      const took = site.repairedAt - start;
      assert.ok(site.repairedAt > 0, "nothing was counted");
      assert.ok(took < 1000, `it took ${took} ms`);
    });

  it("gets no network while the engine's rules are in nf_tables, and is told what to do", async () => {
    const nft = programOf("nf_tables", "iptables");
    await run([nft, "-w", "-N", "DOCKER-USER"]);
    try {
      await assert.rejects(
        make(),
        /the engine's rules are those of iptables-nft, .*update-alternatives --set iptables/,
      );
      assert.deepEqual(site.records(), {});
    } finally {
      await run([nft, "-w", "-X", "DOCKER-USER"]);
    }
    await make();
  });
});
