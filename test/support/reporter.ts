import { appendFileSync } from "node:fs";
import Mocha, { type Runner, type Suite, type Test } from "mocha";
import { skipOf } from "./skip.ts";

const {
  EVENT_SUITE_BEGIN,
  EVENT_SUITE_END,
  EVENT_TEST_PASS,
  EVENT_TEST_FAIL,
  EVENT_TEST_PENDING,
  EVENT_RUN_END,
} = Mocha.Runner.constants;

/** Characters of an error in the list of failures at the end. */
const REASON_LENGTH = 300;
/** Milliseconds that the process may go on after a failure: a test that failed may have left open what keeps it. */
const AFTERWARDS_MS = 10_000;

/**
 * Prints every test with its time and every skip with its reason, a suite that is skipped as a whole in one line.
 * With `--reporter-option results=FILE` it also adds a line for each test to that file as it happens and `end` last,
 * so that scripts/test can tell a run that ended from one that died.
 */
// mocha takes a reporter from a file as its default export only.
export default class Reporter extends Mocha.reporters.Base {
  readonly #file: string | undefined;
  readonly #toldOf = new Set<object>();
  #depth = 0;

  constructor(runner: Runner, options: Mocha.MochaOptions) {
    super(runner, options);
    this.#file = (options.reporterOptions as { results?: string } | undefined)?.results;
    runner
      .on(EVENT_SUITE_BEGIN, (suite: Suite) => {
        if (!suite.root) this.#say(suite.title);
        this.#depth += 1;
      })
      .on(EVENT_SUITE_END, () => (this.#depth -= 1))
      .on(EVENT_TEST_PASS, (test: Test) => {
        this.#say(`✔ ${test.title} (${time(test)})`);
        this.#record("pass", test.fullTitle());
      })
      .on(EVENT_TEST_FAIL, (test: Test, error: Error) => {
        this.#say(`✘ ${test.title} (${time(test)})`);
        this.#record("fail", test.fullTitle(), error.message.slice(0, REASON_LENGTH));
      })
      .on(EVENT_TEST_PENDING, (test: Test) => {
        const { reason, skipped } = skipOf(test);
        this.#record("skip", reason, test.fullTitle());
        if (this.#toldOf.has(skipped)) return;
        this.#toldOf.add(skipped);
        this.#say(`- ${skipped === test ? test.title : "all of it"}: ${reason}`);
      })
      .once(EVENT_RUN_END, () => {
        this.epilogue();
        this.#record("end");
        if (runner.failures > 0) setTimeout(() => process.exit(1), AFTERWARDS_MS).unref();
      });
  }

  #say(text: string): void {
    process.stdout.write(`${"  ".repeat(this.#depth)}${text}\n`);
  }

  #record(...fields: string[]): void {
    if (this.#file === undefined) return;
    appendFileSync(this.#file, `${fields.map((field) => field.replace(/\s+/g, " ")).join("\t")}\n`);
  }
}

function time({ duration = 0 }: Test): string {
  return duration < 10_000 ? `${String(duration)} ms` : `${(duration / 1000).toFixed(1)} s`;
}
