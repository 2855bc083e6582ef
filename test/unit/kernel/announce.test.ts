import assert from "node:assert/strict";
import { arpAnnouncement, neighbourAdvertisement } from "../../../src/kernel/announce.ts";

const MAC = "02:42:c0:a8:01:0a";

describe("announce", () => {
  it("makes an ARP request that asks for the address it comes from (RFC 5227, section 3)", () => {
    assert.equal(
      arpAnnouncement(MAC, "192.168.1.10").toString("hex"),
      ["0001", "0800", "06", "04", "0001", "0242c0a8010a", "c0a8010a", "000000000000", "c0a8010a"].join(""),
    );
  });

  it("makes an advertisement to all nodes that overrides what they know (RFC 4861, section 4.4)", () => {
    const packet = neighbourAdvertisement(MAC, "fd00::a");
    const address = "fd00000000000000000000000000000a";
    const all = "ff020000000000000000000000000001";
    assert.equal(packet.subarray(0, 40).toString("hex"), `6000000000203aff${address}${all}`);
    const icmp = packet.subarray(40);
    assert.equal(icmp.subarray(0, 2).toString("hex"), "8800");
    assert.equal(icmp.subarray(4).toString("hex"), `20000000${address}02010242c0a8010a`);
    // Over the pseudo header and the message with its checksum in place, the sum is all ones (RFC 1071).
    const pseudo = Buffer.concat([packet.subarray(8, 40), Buffer.from("000000200000003a", "hex")]);
    assert.equal(sum(Buffer.concat([pseudo, icmp])), 0xffff);
  });
});

function sum(data: Buffer): number {
  let total = 0;
  for (let offset = 0; offset < data.length; offset += 2) total += data.readUInt16BE(offset);
  while (total > 0xffff) total = (total & 0xffff) + Math.floor(total / 0x10000);
  return total;
}
