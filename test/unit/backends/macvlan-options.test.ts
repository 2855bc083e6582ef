import assert from "node:assert/strict";
import { MacvlanOptions } from "../../../src/backends/macvlan-options.ts";

/** What one option's value is read as, or undefined where it is refused. */
function read(key: string, value: string): unknown {
  const parsed = MacvlanOptions.safeParse({ backend: "macvlan", [key]: value });
  return parsed.success ? parsed.data[key as keyof MacvlanOptions] : undefined;
}

describe("MacvlanOptions", () => {
  it("has the defaults of the engine's macvlan driver", () => {
    assert.deepEqual(MacvlanOptions.parse({ backend: "macvlan" }), {
      backend: "macvlan",
      macvlan_mode: "bridge",
      host_access: false,
      "com.docker.network.container_iface_prefix": "eth",
    });
  });

  it("documents every option", () => {
    for (const [key, schema] of Object.entries(MacvlanOptions.shape)) {
      const { description } = schema.meta() as { description?: string };
      assert.ok(description, key);
    }
  });

  it("reads the kernel's modes and no other", () => {
    for (const text of ["bridge", "private", "vepa", "passthru"])
      assert.equal(read("macvlan_mode", text), text);
    assert.equal(read("macvlan_mode", ""), "bridge");
    for (const text of ["Bridge", "source", "hub"]) assert.equal(read("macvlan_mode", text), undefined);
  });

  it("reads host_access as on or off", () => {
    for (const text of ["on", "true"]) assert.equal(read("host_access", text), true);
    for (const text of ["off", "false"]) assert.equal(read("host_access", text), false);
    for (const text of ["", "1", "yes", "ON"]) assert.equal(read("host_access", text), undefined);
  });

  it("reads a parent as a link's name, which may be a VLAN's", () => {
    for (const text of ["eth0", "eth0.50", "fifteen-chars-x", "a".repeat(127)])
      assert.equal(read("parent", text), text);
    for (const text of ["", "a".repeat(128), "a/b", "a b", "."])
      assert.equal(read("parent", text), undefined);
  });
});
