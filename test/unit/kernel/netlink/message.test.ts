import assert from "node:assert/strict";
import fc from "fast-check";
import {
  Attributes,
  bytes,
  nest,
  netlinkMessage,
  netlinkMessages,
  text,
  u32,
  u8,
} from "../../../../src/kernel/netlink/message.ts";

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
        const found = new Attributes(message, offset);
        for (const [type, raw] of wanted) {
          assert.deepEqual(found.get(type), raw);
          assert.equal(found.u8(type), raw[0]);
        }
        const absent = (type: number) => !wanted.some(([there]) => there === type);
        for (const type of [0, 1, 0x3fff].filter(absent)) assert.equal(found.has(type), false);
      }),
    );
  });

  it("reads each kind of value to its end and no further", () => {
    const found = new Attributes(
      Buffer.concat([
        ...[text(1, "br0"), bytes(2, Buffer.from("br0\0rest")), bytes(3, Buffer.from("eth0"))],
        ...[u32(4, 0xffff_fffe), u8(5, 7), bytes(6, Buffer.alloc(0)), nest(7, u8(1, 2), u32(2, 3))],
        ...[bytes(8, Buffer.from([2, 0x42, 10, 0, 0, 0xfe])), u8(4, 9)],
      ]),
    );
    assert.deepEqual(
      [1, 2, 3, 6, 99].map((type) => found.text(type)),
      ["br0", "br0", "eth0", "", ""],
    );
    assert.equal(found.u8(4), 9, "the last one wins");
    assert.deepEqual(
      [4, 5, 6, 99].map((type) => found.u32(type)),
      [0, 0, 0, 0],
      "too short for a number",
    );
    assert.deepEqual(
      [5, 6, 99].map((type) => found.u8(type)),
      [7, undefined, undefined],
    );
    assert.deepEqual([found.nest(7).u8(1), found.nest(7).u32(2), found.nest(99).has(0)], [2, 3, false]);
    assert.deepEqual([found.mac(8), found.mac(6), found.mac(99)], ["02:42:0a:00:00:fe", "", ""]);
    assert.equal(new Attributes(u32(1, 0xffff_fffe)).u32(1), 0xffff_fffe);
  });

  it("reads any bytes to their end", () => {
    const header = fc.tuple(fc.nat({ max: 12 }), fc.nat({ max: 3 }), fc.uint8Array({ maxLength: 12 }));
    fc.assert(
      fc.property(fc.array(header, { maxLength: 5 }), (parts) => {
        const message = Buffer.concat(
          parts.map(([size, type, rest]) => Buffer.from([size, 0, type, 0, ...rest])),
        );
        const found = new Attributes(message);
        for (let type = 0; type < 256; type += 1) {
          const raw = found.get(type);
          assert.equal(raw !== undefined, found.has(type));
          assert.equal(found.u8(type), raw?.[0]);
          assert.equal(found.u32(type), raw && raw.length >= 4 ? raw.readUInt32LE() : 0);
          assert.equal(found.text(type), raw?.toString().replace(/\0.*$/s, "") ?? "");
          found.nest(type);
        }
      }),
    );
  });
});
