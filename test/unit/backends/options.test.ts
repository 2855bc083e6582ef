import assert from "node:assert/strict";
import fc from "fast-check";
import { OPTIONS, createBackends, parseOptions } from "../../../src/backends/index.ts";
import type { Publisher } from "../../../src/backends/publisher.ts";
import { InvalidError, TsnetError, reason } from "../../../src/errors.ts";
import { Firewall } from "../../../src/firewall/firewall.ts";
import type { Host } from "../../../src/kernel/host.ts";
import type { State } from "../../../src/store/state.ts";
import { ALL_KNOWN } from "../../support/known.ts";
import { memoryLog } from "../../support/log.ts";

describe("parseOptions", () => {
  // Options are read without a look at the host.
  const nowhere: unknown = undefined;
  const backends = createBackends(
    nowhere as Host,
    new Firewall(),
    nowhere as Publisher,
    {},
    nowhere as State,
    ALL_KNOWN,
  );
  const { log, lines } = memoryLog();
  const read = (given: Record<string, string>) => parseOptions(backends, given, log);

  it("takes the bridge backend where none is named", () => {
    assert.equal(read({}).name, "bridge");
    assert.equal(read({ backend: "bridge" }).name, "bridge");
  });

  it("refuses a backend it does not have, with those it has", () => {
    assert.throws(
      () => read({ backend: "token-ring" }),
      (error) =>
        error instanceof TsnetError && error.code === "unsupported" && error.message.includes("bridge"),
    );
    assert.throws(() => read({ backend: "constructor" }), TsnetError);
    assert.throws(() => read({ backend: "__proto__" }), TsnetError);
  });

  it("refuses an option it does not know, with those it knows", () => {
    assert.throws(
      () => read({ mtu: "1400" }),
      (error) =>
        error instanceof InvalidError &&
        /^unknown option mtu; .*com\.docker\.network\.driver\.mtu/.test(error.message),
    );
  });

  it("names the backend that an option is for, if it is another's", () => {
    const refused = (options: Record<string, string>, message: string) => {
      assert.throws(() => read(options), { name: "InvalidError", message });
    };
    refused({ parent: "eth0" }, "option parent is for backend macvlan, not bridge: -o backend=macvlan");
    refused(
      { backend: "macvlan", big_tcp: "true" },
      "option big_tcp is for backend bridge, not macvlan: -o backend=bridge",
    );
  });

  it("passes over an option of the engine's that it does not know, with a warning", () => {
    lines.length = 0;
    assert.ok(read({ "com.docker.network.from-the-future": "x" }));
    assert.deepEqual(
      lines.map(({ level, options }) => ({ level, options })),
      [{ level: "warn", options: ["com.docker.network.from-the-future"] }],
    );
  });

  it("names the option whose value cannot be", () => {
    assert.throws(() => read({ "com.docker.network.driver.mtu": "big" }), {
      message:
        'option com.docker.network.driver.mtu is "big", but must be a number of bytes from 68 to 65535',
    });
  });

  it("reads any value of any option, or refuses it in one line with option and value", () => {
    const options = Object.entries(OPTIONS).flatMap(([backend, schema]) =>
      Object.keys(schema.shape)
        .filter((option) => option !== "backend")
        .map((option) => ({ backend, option })),
    );
    const likely = fc.constantFrom(
      "",
      "true",
      "on",
      "1500",
      "67",
      "65536",
      "nat",
      "all",
      "::1",
      "10.0.0.1",
      "eth0",
      "two\nlines",
    );
    const values = fc.oneof(likely, fc.string(), fc.string({ unit: "binary" }));
    let [taken, refused] = [0, 0];
    fc.assert(
      fc.property(fc.constantFrom(...options), values, ({ backend, option }, value) => {
        try {
          const { name } = read({ backend, [option]: value });
          assert.equal(name, backend);
          taken += 1;
        } catch (error) {
          assert.ok(error instanceof InvalidError, String(error));
          assert.ok(error.message.startsWith(`option ${option} is "${value}", but must be `), error.message);
          assert.doesNotMatch(reason(error), /\n/);
          refused += 1;
        }
      }),
      { numRuns: 1000 },
    );
    assert.ok(taken > 50 && refused > 50, `${String(taken)} taken, ${String(refused)} refused`);
  });
});
