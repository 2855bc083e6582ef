import assert from "node:assert/strict";
import fc from "fast-check";
import {
  attributes,
  bytes,
  nest,
  netlinkMessage,
  netlinkMessages,
  readText,
  readU32,
  text,
  u32,
  u8,
} from "../../../src/kernel/netlink-message.ts";

describe("netlink message", () => {
  it("writes attributes as the kernel reads them", () => {
    // IFLA_IFNAME of "br0": length 8, type 3, padded to 4 (netlink(7)).
    assert.equal(text(3, "br0").toString("hex"), "0800030062723000");
    assert.equal(text(3, "eth0").toString("hex"), "09000300657468300000" + "0000");
    assert.equal(u32(4, 1500).toString("hex"), "08000400dc050000");
    assert.equal(u8(8, 1).toString("hex"), "0500080001000000");
    assert.equal(nest(18, u8(1, 2)).toString("hex"), "0c001280" + "0500010002000000");
  });

  it("writes a request with its head, and reads what comes in one datagram", () => {
    // struct nlmsghdr: length 21, type 18, flags 5, sequence 7, port 0; padded to 4 (netlink(7)).
    const request = netlinkMessage(18, 5, 7, Buffer.from("abcde"));
    assert.equal(request.toString("hex"), "15000000120005000700000000000000" + "6162636465000000");
    const other = netlinkMessage(2, 0x10, 8, Buffer.alloc(4));
    assert.deepEqual(netlinkMessages(Buffer.concat([request, other])), [
      { type: 18, sequence: 7, torn: false, data: Buffer.from("abcde") },
      { type: 2, sequence: 8, torn: true, data: Buffer.alloc(4) },
    ]);
    for (const broken of [request.subarray(0, 15), Buffer.alloc(40)])
      assert.deepEqual(netlinkMessages(broken), []);
  });

  it("reads back what it has written", () => {
    const value = fc.uint8Array({ maxLength: 40 }).map((array) => Buffer.from(array));
    const list = fc.uniqueArray(fc.tuple(fc.nat({ max: 0x3fff }), value), {
      selector: ([type]) => type,
      maxLength: 10,
    });
    fc.assert(
      fc.property(list, fc.nat({ max: 20 }), (wanted, offset) => {
        const message = Buffer.concat([
          Buffer.alloc(offset),
          ...wanted.map(([type, raw]) => bytes(type, raw)),
        ]);
        assert.equal((message.length - offset) % 4, 0);
        assert.deepEqual([...attributes(message, offset)], wanted);
      }),
    );
  });

  it("reads any bytes to their end", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 64 }), (array) => {
        for (const value of attributes(Buffer.from(array)).values()) {
          readText(value);
          readU32(value);
        }
      }),
    );
  });

  it("reads an absent attribute as empty", () => {
    assert.equal(readText(undefined), "");
    assert.equal(readU32(undefined), 0);
    assert.equal(readU32(Buffer.from([1])), 0);
    assert.equal(readText(Buffer.from("br0\0rest")), "br0");
  });
});
