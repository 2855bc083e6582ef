import assert from "node:assert/strict";
import fc from "fast-check";
import * as names from "../../src/names.ts";

const NETWORK = "43f126c4baedce1e577ea0e1089328b6438c388577f919f3ac8b3ec71df40c88";
const ENDPOINT = "7b1d02b48c07e03cba1fe67fd5a3a4c42d0ef9a0e4ee8a57d0e8dd4a40ad3c11";

const digits = (all: string) => fc.nat({ max: all.length - 1 }).map((at) => all.charAt(at));

/** These names are on hosts now: an older version's networks must be found by them. None may ever change. */
describe("names", () => {
  it("are what they have always been", () => {
    assert.equal(names.bridgeName(NETWORK), "ts-43f126c4baed");
    assert.equal(names.hostEnd(ENDPOINT), "tsh7b1d02b48c07");
    assert.equal(names.containerEnd(ENDPOINT), "tsc7b1d02b48c07");
    assert.equal(names.linkAlias("network", NETWORK), `tsnet network ${NETWORK}`);
    assert.equal(names.linkAlias("endpoint", ENDPOINT), `tsnet endpoint ${ENDPOINT}`);
    assert.equal(names.ruleComment(NETWORK), "tsnet-43f126c4baed");
    assert.equal(names.LINK_GROUP, 29_811);
    assert.equal(names.bridgeMac(NETWORK), "02:db:a8:82:20:3a");
    assert.equal(names.macOf("10.1.2.3", "anything"), "02:42:0a:01:02:03");
    assert.equal(names.macOf(undefined, "fd00::5/64"), "02:42:5c:ee:ec:bf");
  });

  it("fit into a link's name, and links of one container differ", () => {
    const id = fc.string({ unit: digits("0123456789abcdef"), minLength: 64, maxLength: 64 });
    const swarm = fc.string({
      unit: digits("0123456789abcdefghijklmnopqrstuvwxyz"),
      minLength: 25,
      maxLength: 25,
    });
    fc.assert(
      fc.property(fc.oneof(id, swarm), (text) => {
        const all = [names.bridgeName(text), names.hostEnd(text), names.containerEnd(text)];
        for (const name of all) assert.ok(Buffer.byteLength(name) <= 15, name);
        assert.equal(new Set(all).size, all.length);
      }),
    );
  });

  it("give back the owner of what they name", () => {
    assert.deepEqual(names.ownerOf(names.linkAlias("network", NETWORK)), { kind: "network", id: NETWORK });
    assert.deepEqual(names.ownerOf(names.linkAlias("endpoint", ENDPOINT)), {
      kind: "endpoint",
      id: ENDPOINT,
    });
    for (const alias of [
      "",
      "tsnet",
      "tsnet network",
      "tsnet network ",
      "tsnet pool x",
      "x tsnet network y",
      "tsnet network a b",
    ])
      assert.equal(names.ownerOf(alias), undefined, alias);
  });

  it("give MACs that are unicast and locally administered", () => {
    fc.assert(
      fc.property(fc.option(fc.ipV4(), { nil: undefined }), fc.string(), (ipv4, text) => {
        for (const mac of [names.macOf(ipv4, text), names.bridgeMac(text)]) {
          assert.match(mac, /^([0-9a-f]{2}:){5}[0-9a-f]{2}$/);
          assert.equal(parseInt(mac.slice(0, 2), 16) & 3, 2);
        }
      }),
    );
  });

  it("give the same MAC to the same address only", () => {
    fc.assert(
      fc.property(fc.ipV4(), fc.ipV4(), (a, b) => (names.macOf(a, "") === names.macOf(b, "")) === (a === b)),
    );
    assert.notEqual(names.macOf(undefined, "fd00::1/64"), names.macOf(undefined, "fd00::2/64"));
  });
});
