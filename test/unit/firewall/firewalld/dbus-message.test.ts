import assert from "node:assert/strict";
import {
  type BusValue,
  decodeMessage,
  encodeCall,
  messageLength,
} from "../../../../src/firewall/firewalld/dbus-message.ts";

const CALL = { destination: "a.b", path: "/a", interface: "a.b.C", member: "Do" };

/** `ab` and a number, as a machine of the other byte order sends them back: a return of call 7. */
const BIG_ENDIAN = Buffer.from(
  [
    "42020001 0000000c 00000001 00000010", // B, return; body 12, serial 1, fields 16
    "05017500 00000007", // reply to 7
    "08016700 02737500", // signature su
    "00000002 61620000 0000000a",
  ]
    .join("")
    .replaceAll(" ", ""),
  "hex",
);

describe("messages on the bus", () => {
  it("are written as the specification has it", () => {
    const hex = encodeCall(5, CALL, ["x"]).toString("hex");
    const fields = [
      "01016f00 02000000 2f610000 00000000", // path
      "02017300 05000000 612e622e 43000000", // interface
      "03017300 02000000 446f0000 00000000", // member
      "06017300 03000000 612e6200 00000000", // destination
      "08016700 01730000", // signature, and what fills up to 8
    ];
    const text = ["6c010201 06000000 05000000 47000000", ...fields, "01000000 7800"]
      .join("")
      .replaceAll(" ", "");
    assert.equal(hex, text);
  });

  it("are read as they were written", () => {
    const bodies: BusValue[][] = [[], ["one"], ["a", ["b", "", "ccc"], 7, true, "d"], [[]]];
    for (const body of bodies) {
      const bytes = encodeCall(1, CALL, body);
      assert.equal(messageLength(bytes), bytes.length);
      assert.deepEqual(decodeMessage(bytes), { type: "call", replyTo: 0, member: "Do", body });
    }
  });

  it("are read in the sender's byte order", () => {
    assert.equal(messageLength(BIG_ENDIAN), BIG_ENDIAN.length);
    assert.deepEqual(decodeMessage(BIG_ENDIAN), { type: "return", replyTo: 7, member: "", body: ["ab", 10] });
  });

  it("are read as far as their types are known", () => {
    assert.deepEqual(decodeMessage(encodeCall(1, CALL, ["a", { b: "c" }, "d"])).body, ["a"]);
  });

  it("are read up to a structure, whatever is in it", () => {
    const call = encodeCall(1, CALL, ["a", "b", "c", "d", "e"]);
    call.write("s(ss)", call.indexOf("sssss"));
    assert.deepEqual(decodeMessage(call).body, ["a"]);
  });

  it("are of no known length before their head is there", () => {
    assert.equal(messageLength(encodeCall(1, CALL, []).subarray(0, 15)), undefined);
  });
});
