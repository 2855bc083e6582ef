import assert from "node:assert/strict";
import fc from "fast-check";
import { BridgeOptions } from "../../../src/backends/bridge-options.ts";

const BRIDGE = "com.docker.network.bridge";

/** What one option's value is read as, or undefined where it is refused. */
function read(key: string, value: string): unknown {
  const parsed = BridgeOptions.safeParse({ [key]: value });
  return parsed.success ? parsed.data[key as keyof BridgeOptions] : undefined;
}

describe("BridgeOptions", () => {
  it("has the defaults of the engine's bridge driver", () => {
    assert.deepEqual(BridgeOptions.parse({}), {
      backend: "bridge",
      big_tcp: false,
      [`${BRIDGE}.enable_icc`]: true,
      [`${BRIDGE}.enable_ip_masquerade`]: true,
      [`${BRIDGE}.inhibit_ipv4`]: false,
      [`${BRIDGE}.gateway_mode_ipv4`]: "nat",
      [`${BRIDGE}.gateway_mode_ipv6`]: "nat",
      "com.docker.network.container_iface_prefix": "eth",
    });
  });

  it("documents every option", () => {
    for (const [key, schema] of Object.entries(BridgeOptions.shape)) {
      const { description } = schema.meta() as { description?: string };
      assert.ok(description, key);
    }
  });

  it("reads flags as Go's ParseBool does", () => {
    const key = `${BRIDGE}.enable_icc`;
    for (const text of ["1", "t", "T", "true", "True", "TRUE"]) assert.equal(read(key, text), true, text);
    for (const text of ["0", "f", "F", "false", "False", "FALSE"]) assert.equal(read(key, text), false, text);
    for (const text of ["", "yes", "no", "on", "2", " ", "tRUE", "null"])
      assert.equal(read(key, text), undefined, text);
  });

  it("reads an MTU of 68 to 65535 bytes, in digits", () => {
    const key = "com.docker.network.driver.mtu";
    for (const text of ["68", "1500", "65535"]) assert.equal(read(key, text), Number(text));
    for (const text of ["67", "65536", "00", "-1", "1500.5", "1e3", "0x5dc", "", " 1500"])
      assert.equal(read(key, text), undefined, text);
  });

  it("reads a bridge's name as the kernel takes it, and iptables too", () => {
    const key = `${BRIDGE}.name`;
    for (const text of ["br0", "a", "fifteen-chars-x", "br.5", "_"]) assert.equal(read(key, text), text);
    for (const text of [
      "all",
      "default",
      "sixteen-chars-xx",
      "a b",
      "a/b",
      "a:b",
      ".",
      "..",
      ".a",
      "br%d",
      "%",
    ])
      assert.equal(read(key, text), undefined, text);
    for (const text of ["br+", "!br0", '"br0"', "br*", "-i", "ä"])
      assert.equal(read(key, text), undefined, text);
  });

  it("leaves room for a number behind an interface prefix", () => {
    const key = "com.docker.network.container_iface_prefix";
    assert.equal(read(key, "elevenchars"), "elevenchars");
    assert.equal(read(key, "twelve-chars"), undefined);
    assert.equal(read(key, "fünf"), "fünf");
    assert.equal(read(key, "elfchäracte"), undefined);
  });

  it("takes what the engine takes for nothing as if it had not been given", () => {
    const nothing = {
      [`${BRIDGE}.name`]: "",
      "com.docker.network.driver.mtu": "0",
      "com.docker.network.container_iface_prefix": "",
    };
    assert.deepEqual(JSON.stringify(BridgeOptions.parse(nothing)), JSON.stringify(BridgeOptions.parse({})));
  });

  it("takes an address of the right family only", () => {
    for (const key of ["com.docker.network.host_ipv4", `${BRIDGE}.host_binding_ipv4`]) {
      assert.equal(read(key, "192.168.1.9"), "192.168.1.9");
      for (const text of ["fd00::1", "192.168.1.9/24", "", "host"])
        assert.equal(read(key, text), undefined, text);
    }
    assert.equal(read("com.docker.network.host_ipv6", "fd00::1"), "fd00::1");
    assert.equal(read("com.docker.network.host_ipv6", "192.168.1.9"), undefined);
  });

  it("takes an address in any form for the one that rules are written with", () => {
    assert.equal(read("com.docker.network.host_ipv6", "FD00:0:0:1:0::01"), "fd00:0:0:1::1");
    assert.deepEqual(read("publish", "FD00:0::01"), { 6: "fd00::1" });
  });

  it("takes the engine's gateway modes", () => {
    for (const family of ["4", "6"]) {
      const key = `${BRIDGE}.gateway_mode_ipv${family}`;
      for (const mode of ["nat", "nat-unprotected", "routed", "isolated"])
        assert.equal(read(key, mode), mode);
      for (const mode of ["", "NAT", "none"]) assert.equal(read(key, mode), undefined);
    }
  });

  it("refuses another backend's name", () => {
    assert.equal(read("backend", "macvlan"), undefined);
  });

  it("says what was given and what is allowed, whatever was given", () => {
    // Another name than a backend's is refused before its options are read.
    const key = fc.constantFrom(...Object.keys(BridgeOptions.shape).filter((option) => option !== "backend"));
    fc.assert(
      fc.property(key, fc.string(), (option, value) => {
        const parsed = BridgeOptions.safeParse({ [option]: value });
        if (parsed.success) return;
        assert.deepEqual(parsed.error.issues[0]?.path, [option]);
        assert.match(parsed.error.issues[0].message, /must be/);
      }),
    );
  });

  it("reads what it has read and stored the same way again", () => {
    // The store keeps parsed options; an upgrade must not have to parse them a second time.
    const parsed = BridgeOptions.parse({
      [`${BRIDGE}.enable_icc`]: "false",
      "com.docker.network.driver.mtu": "1400",
    });
    assert.deepEqual(JSON.parse(JSON.stringify(parsed)), parsed);
  });
});
