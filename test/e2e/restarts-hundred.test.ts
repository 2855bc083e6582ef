import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { BOX } from "../lab/image.ts";
import { onEachEngine } from "./each-engine.ts";
import { subnets } from "./site.ts";
import { until } from "./until.ts";

/** The time goes by for starting them, on every processor there is: fewer where the engine makes no difference. */
const COUNTS = { "20.10": 30, "26.1": 30, "28.5": 100 } as const;
/** As many are made at once. */
const AT_ONCE = 4;
/** When tsnet is started after the engine, which looks for it for 15 s. */
const LATE_MS = 2000;
const MINUTES_MS = 300_000;

onEachEngine("restarts of up to a hundred containers", (site) => {
  const count = COUNTS[site.line];
  const net = subnets();

  before(async function () {
    this.timeout(MINUTES_MS);
    await site.network("blue", "--subnet", net.v4);
    const run = `docker run -d --restart always --network blue ${BOX}`;
    await site.exec(["sh", "-c", `seq ${String(count)} | xargs -P${String(AT_ONCE)} -I{} ${run}`], {
      timeoutMs: MINUTES_MS,
    });
    await allAnswer();
  });

  it("has all of them back, tsnet started before the engine", async function () {
    this.timeout(MINUTES_MS);
    await stopBoth();
    await site.host.startTsnet();
    await site.host.startEngine();
    await allAnswer();
  });

  it("has all of them back, the engine started before tsnet", async function () {
    this.timeout(MINUTES_MS);
    await stopBoth();
    const engine = site.host.startEngine();
    await sleep(LATE_MS);
    await site.host.startTsnet();
    await engine;
    await allAnswer();
  });

  async function stopBoth(): Promise<void> {
    await site.host.stopEngine();
    await site.host.stopTsnet();
  }

  async function allAnswer(): Promise<void> {
    const running = () => site.host.api.listContainers();
    await until("all to run", async () => (await running()).length === count, MINUTES_MS);
    const addresses = (await running()).map(
      ({ NetworkSettings }) => NetworkSettings.Networks["blue"]?.IPAddress ?? "",
    );
    assert.equal(new Set(addresses).size, count);
    const pings = addresses.map((address) => `ping -nc1 -W5 ${address} >/dev/null || echo ${address} &`);
    const { stdout } = await site.exec(["sh", "-c", `${pings.join("\n")}\nwait`]);
    assert.equal(stdout, "");
  }
});
