import assert from "node:assert/strict";
import type { Driver } from "../../../src/driver.ts";
import type { Firewall } from "../../../src/firewall/firewall.ts";
import { Health } from "../../../src/reconcile/health.ts";
import { RuleRepair } from "../../../src/reconcile/rule-repair.ts";
import { Schedule } from "../../../src/reconcile/schedule.ts";
import type { State } from "../../../src/store/state.ts";
import { StoppedClock } from "../../support/clock.ts";
import { memoryLog } from "../../support/log.ts";
import { id } from "../../support/requests.ts";

const NETWORKS = [id(1), id(2)];
const OWNERS = NETWORKS.map((network) => `rules ${network}`);

describe("RuleRepair", () => {
  let clock: StoppedClock;
  let health: Health;
  let rules: RuleRepair;
  /** What the firewall does for all networks, and for one of them. */
  let settle: () => readonly string[];
  let repair: (network: string) => void;
  let looks: number;
  const { log, lines } = memoryLog();
  const errors = () => lines.filter(({ level }) => level === "error").map(({ msg }) => msg);

  beforeEach(() => {
    clock = new StoppedClock();
    lines.length = looks = 0;
    settle = () => [];
    repair = () => undefined;
    const firewall = {
      othersDone: () => Promise.resolve(),
      forget: () => undefined,
      repairChains: async () => {
        looks++;
        return Promise.resolve(settle());
      },
      repair: async (comment: string) => {
        repair(comment);
        return Promise.resolve({ missing: [], extra: [] });
      },
    };
    const state = {
      networks: () => NETWORKS.map((network) => ({ id: network })),
      network: (network: string) => ({ id: network }),
    } as unknown as State;
    const driver = {
      exclusively: (_: string, act: () => Promise<unknown>) => act(),
      rules: () => [],
      onRules: () => Promise.resolve(),
    };
    health = new Health(state, log);
    rules = new RuleRepair(
      driver as unknown as Driver,
      state,
      firewall as unknown as Firewall,
      { rules: () => Promise.resolve() },
      health,
      new Schedule(log),
    );
  });
  afterEach(() => {
    clock.release();
  });

  it("tells of every network at once, and once, when what holds their rules together cannot be put right", async () => {
    settle = () => {
      throw new Error("no");
    };
    for (let minute = 0; minute < 2; minute++) {
      await assert.rejects(rules.chains(), /no/);
      // Their own rules are there, but are worth nothing.
      for (const network of NETWORKS) await rules.network(network, false);
      assert.deepEqual(
        [...health.degraded],
        OWNERS.map((owner) => [owner, "no"]),
      );
    }
    assert.equal(lines.length, NETWORKS.length);
    settle = () => [];
    await rules.chains();
    for (const network of NETWORKS) await rules.network(network, false);
    assert.deepEqual([...health.degraded], []);
  });

  it("looks again after a second and then ever more rarely while a network's rules cannot be put right", async () => {
    repair = (comment) => {
      if (comment === `tsnet-${id(1).slice(0, 12)}`) throw new Error("no");
    };
    await rules.network(id(1), false);
    for (const ms of [1000, 1000, 2000, 4000]) {
      const before = looks;
      await clock.pass(ms - 1);
      assert.equal(looks, before);
      await clock.pass(1);
      assert.equal(looks, before + 1);
    }
    assert.deepEqual([...health.degraded], [[OWNERS[0], "no"]]);
    assert.deepEqual(errors(), ["degraded: cannot be repaired", "repair failed; will try again"]);
    repair = () => undefined;
    await clock.pass(8000);
    assert.deepEqual([...health.degraded], []);
    const before = looks;
    await clock.pass(60_000);
    assert.equal(looks, before);
  });

  it("tells of somebody who answers every repair, until he stops", async () => {
    repair = () => {
      throw new Error("no");
    };
    await rules.network(id(1), false);
    repair = () => undefined;
    settle = () => ["mangle -I FORWARD 1 -j TSNET-ISOLATION"];
    await clock.pass(1000);
    for (let second = 1; second < 20; second++) {
      assert.deepEqual([...health.degraded], []);
      await clock.pass(1000);
    }
    assert.deepEqual(
      [...health.degraded],
      [["rules", "another program changes tsnet's rules each time they are put right"]],
    );
    settle = () => [];
    await clock.pass(1000);
    assert.deepEqual([...health.degraded], []);
    const before = looks;
    await clock.pass(60_000);
    assert.equal(looks, before);
  });

  it("goes on with the others' rules after a look at all of them has failed", async () => {
    settle = () => {
      throw new Error("no");
    };
    repair = () => {
      throw new Error("no");
    };
    await rules.network(id(1), false);
    await clock.pass(1000);
    assert.deepEqual([...health.degraded.keys()].sort(), [...OWNERS].sort());
    assert.equal(errors().filter((msg) => msg.startsWith("repair failed")).length, 1);
    settle = () => [];
    repair = (comment) => {
      if (comment === `tsnet-${id(1).slice(0, 12)}`) throw new Error("no");
    };
    await clock.pass(1000);
    assert.deepEqual([...health.degraded.keys()], [OWNERS[0]]);
  });
});
