import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { ip, ipAddresses, mustBeIsolated, ruleLines, wipe } from "../support/isolated.ts";
import { NETWORKS, bridgeOf, endpointOf } from "../support/networks.ts";
import { Site } from "../support/site.ts";
import { until } from "../support/until.ts";

/** Each is announced, and together they are more than fits the daemon's buffer. */
const CHANGES = 40_000;

const network = NETWORKS["dual stack"] ?? assert.fail();
const bridge = bridgeOf(network);

interface Flood {
  /** Number in /proc/net/netlink of the protocol that it is announced by (linux/netlink.h). */
  readonly protocol: string;
  readonly command: readonly [string, ...string[]];
  /** At its end is damage to what is tsnet's. */
  readonly input: readonly string[];
  /** What is damaged. */
  readonly look: () => Promise<unknown>;
}

const FLOODS: Readonly<Record<string, Flood>> = {
  routes: {
    protocol: "0",
    command: ["ip", "-batch", "-"],
    input: [
      ...Array.from(
        { length: CHANGES },
        (_, number) => `route add 10.99.${number >> 8}.${number & 255} dev v0`,
      ),
      `address delete 10.1.0.1/16 dev ${bridge}`,
    ],
    look: () => ipAddresses(bridge),
  },
  rules: {
    protocol: "12",
    command: ["iptables-restore", "--noflush"],
    input: [
      ...["*filter", ":FLOOD -", ...new Array<string>(CHANGES).fill("-A FLOOD -j ACCEPT"), "COMMIT"],
      ...["*filter", "-F FLOOD", "-X FLOOD", "-F FORWARD", "COMMIT"],
    ],
    look: () => ruleLines(4),
  },
};

describe("a flood of changes while the daemon is busy", () => {
  let site: Site;

  before(mustBeIsolated);
  beforeEach(async () => {
    await ip("link add v0 type veth peer name v1", "link set v0 up", "link set v1 up");
    site = new Site();
    await site.driver.createNetwork(network);
    await site.driver.createEndpoint(endpointOf(network));
    await site.reconciler.start();
    // Longer than it waits before it looks at what has just been made.
    await sleep(300);
  });
  afterEach(async () => {
    await site.stop();
    await wipe();
  });

  for (const [what, { protocol, command, input, look }] of Object.entries(FLOODS))
    it(`of ${what} does not end it, and what it was not told of is repaired all the same`, async () => {
      const before = await look();
      const [program, ...args] = command;
      const { status, stderr } = spawnSync(program, args, { input: `${input.join("\n")}\n` });
      assert.equal(status, 0, stderr.toString());
      assert.ok(dropped(protocol) > 0, "it was told of everything");
      assert.notDeepEqual(await look(), before);
      await until("it is repaired", async () => {
        assert.deepEqual(await look(), before);
        return true;
      });
    });
});

/** How many announcements of a netlink protocol found no room in a buffer. */
function dropped(protocol: string): number {
  const [, ...rows] = readFileSync("/proc/net/netlink", "utf8").trim().split("\n");
  const own = rows.map((row) => row.split(/\s+/)).filter(([, eth]) => eth === protocol);
  return own.reduce((sum, columns) => sum + Number(columns[8]), 0);
}
