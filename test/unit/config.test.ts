import assert from "node:assert/strict";
import { Config, flag, readSettings, variable } from "../../src/config.ts";
import { InvalidError } from "../../src/errors.ts";

describe("config", () => {
  it("has a default for every setting", () => {
    assert.deepEqual(readSettings({}, {}), {
      socket: "/run/docker/plugins/tsnet.sock",
      stateDir: "/var/lib/tsnet",
      dockerSocket: "/var/run/docker.sock",
      systemBus: "/run/dbus/system_bus_socket",
      publish: { 4: "0.0.0.0", 6: "::" },
      logLevel: "info",
    });
  });

  it("takes a flag before a variable, and a variable before the default", () => {
    const environment = { TSNET_SOCKET: "/variable", TSNET_STATE_DIR: "/state" };
    const config = readSettings({ socket: "/flag" }, environment);
    assert.equal(config.socket, "/flag");
    assert.equal(config.stateDir, "/state");
    assert.equal(config.logLevel, "info");
  });

  it("takes a variable that is empty for none", () => {
    const empty = Object.fromEntries(Object.keys(Config.shape).map((key) => [variable(key), ""]));
    assert.deepEqual(readSettings({}, empty), readSettings({}, {}));
  });

  it("refuses a path that is empty, or longer than a socket's can be", () => {
    const longest = `/${"a".repeat(106)}`;
    for (const key of ["socket", "dockerSocket", "systemBus"] as const) {
      assert.equal(readSettings({ [key]: longest }, {})[key], longest);
      assert.throws(
        () => readSettings({ [key]: `${longest}a` }, {}),
        /^InvalidError: --\S+ \(\S+\): is longer than/,
      );
    }
    for (const key of ["socket", "dockerSocket", "systemBus", "stateDir"])
      assert.throws(
        () => readSettings({ [key]: "" }, {}),
        /^InvalidError: --\S+ \(\S+\): must not be empty$/,
      );
  });

  it("names the setting both ways when its value cannot be", () => {
    for (const [flags, environment] of [
      [{ logLevel: "loud" }, {}],
      [{}, { TSNET_LOG_LEVEL: "loud" }],
    ] as const)
      assert.throws(
        () => readSettings(flags, environment),
        (error) =>
          error instanceof InvalidError && error.message.startsWith("--log-level (TSNET_LOG_LEVEL): "),
      );
  });

  it("calls each setting by its flag and its variable", () => {
    const called = Object.keys(Config.shape).map((key) => `${flag(key)} ${variable(key)}`);
    assert.deepEqual(called, [
      "--socket TSNET_SOCKET",
      "--state-dir TSNET_STATE_DIR",
      "--docker-socket TSNET_DOCKER_SOCKET",
      "--system-bus TSNET_SYSTEM_BUS",
      "--publish TSNET_PUBLISH",
      "--log-level TSNET_LOG_LEVEL",
    ]);
  });
});
