import assert from "node:assert/strict";
import { mock } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { EngineWatch } from "../../../src/docker/engine-watch.ts";
import { StoppedClock } from "../../support/clock.ts";
import { memoryLog } from "../../support/log.ts";
import { until } from "../../support/until.ts";

/** Engines one after the other, each of which lives until it is told to end. */
class Engines {
  #now: AbortController | undefined;

  live(): Promise<AbortSignal> {
    return this.#now ? Promise.resolve(this.#now.signal) : Promise.reject(new Error("ECONNREFUSED"));
  }

  begin(): void {
    this.#now = new AbortController();
  }

  end(): void {
    const ending = this.#now;
    this.#now = undefined;
    ending?.abort();
  }
}

describe("EngineWatch", () => {
  let engines: Engines;
  let watch: EngineWatch;
  let comparisons: number;
  let reported: string[];
  /** What the comparisons say. */
  let say: () => Promise<number | undefined>;
  let log: ReturnType<typeof memoryLog>;

  beforeEach(() => {
    engines = new Engines();
    comparisons = 0;
    reported = [];
    say = () => Promise.resolve(undefined);
    log = memoryLog();
    const compare = () => {
      comparisons += 1;
      return say();
    };
    watch = new EngineWatch(engines, compare, (trouble) => reported.push(trouble), log.log);
  });
  afterEach(() => watch.stop());

  it("compares once with each engine that starts, and with none that is not there", async () => {
    watch.start();
    await sleep(20);
    assert.equal(comparisons, 0);
    for (const expected of [1, 2]) {
      engines.begin();
      await until("a comparison", () => comparisons === expected);
      await sleep(20);
      assert.equal(comparisons, expected);
      engines.end();
    }
  });

  it("tells why no engine can be asked once that has been so for half a minute, and when one can", async () => {
    const clock = new StoppedClock();
    let ms = 0;
    mock.method(performance, "now", () => ms);
    const pass = async (seconds: number) => {
      for (let left = seconds; left > 0; left -= 1) {
        ms += 1000;
        await clock.pass(1000);
      }
    };
    try {
      watch.start();
      await clock.pass(0);
      await pass(29);
      assert.equal(reported.length, 0);
      await pass(1);
      assert.match(
        reported.splice(0).join(),
        /^cannot be asked \(ECONNREFUSED\); does it run, and is --docker-socket/,
      );
      engines.begin();
      await pass(1);
      assert.equal(reported.at(-1), "");
      // It is not an engine that answers.
      say = () => Promise.reject(new Error("GET /networks: status 404"));
      await pass(60 + 29);
      assert.equal(reported.at(-1), "");
      await pass(1);
      assert.match(reported.at(-1) ?? "", /^cannot be asked \(GET \/networks: status 404\)/);
      await watch.stop();
    } finally {
      mock.restoreAll();
      clock.release();
    }
  });

  it("compares with an engine that lives on once a minute", async () => {
    engines.begin();
    const clock = new StoppedClock();
    try {
      watch.start();
      await clock.pass(0);
      for (const expected of [1, 2, 3]) {
        assert.equal(comparisons, expected);
        await clock.pass(59_999);
        assert.equal(comparisons, expected);
        await clock.pass(1);
      }
      await watch.stop();
    } finally {
      clock.release();
    }
  });

  it("compares again when a comparison says when", async () => {
    say = () => Promise.resolve(10);
    engines.begin();
    watch.start();
    await until("three comparisons", () => comparisons > 2);
  });

  it("asks no more than once a second one that ends with each answer", async () => {
    const clock = new StoppedClock();
    try {
      engines.live = () => Promise.resolve(AbortSignal.abort());
      watch.start();
      await clock.pass(0);
      for (let seconds = 1; seconds <= 5; seconds += 1) {
        await clock.pass(999);
        assert.ok(comparisons <= seconds, `${String(comparisons)} in ${String(seconds)} s`);
        await clock.pass(1);
      }
      await watch.stop();
    } finally {
      clock.release();
    }
  });

  it("tells of a comparison that fails, and goes on with the next engine", async () => {
    say = () => Promise.reject(new Error("GET /networks: no answer"));
    engines.begin();
    watch.start();
    await until("a comparison", () => comparisons === 1);
    await until("a line", () => log.lines.length === 1);
    assert.equal(log.lines[0]?.["reason"], "GET /networks: no answer");
    engines.end();
    engines.begin();
    await until("the next comparison", () => comparisons === 2);
  });

  it("stops at once, but not in the midst of a comparison", async () => {
    let finish: (() => void) | undefined;
    say = () =>
      new Promise(
        (resolve) =>
          (finish = () => {
            resolve(undefined);
          }),
      );
    engines.begin();
    watch.start();
    await until("a comparison to begin", () => finish !== undefined);
    let stopped = false;
    const stopping = watch.stop().then(() => (stopped = true));
    await sleep(20);
    assert.equal(stopped, false);
    finish?.();
    await stopping;
    engines.end();
    engines.begin();
    await sleep(20);
    assert.equal(comparisons, 1);
  });
});
