import assert from "node:assert/strict";
import { isIPv4, isIPv6 } from "node:net";
import fc from "fast-check";
import { InvalidError } from "../../src/errors.ts";
import {
  autoconfigured,
  bare,
  contains,
  formatIp,
  ipBytes,
  isIp,
  overlaps,
  parseCidr,
  parseIp,
  subnetOf,
} from "../../src/ip.ts";

const v4 = fc.ipV4();
const v6 = fc.ipV6().filter((text) => !text.includes("."));
const cidr = fc.oneof(
  fc.tuple(v4, fc.integer({ min: 0, max: 32 })).map(([address, length]) => `${address}/${String(length)}`),
  fc.tuple(v6, fc.integer({ min: 0, max: 128 })).map(([address, length]) => `${address}/${String(length)}`),
);

describe("ip", () => {
  describe("parseCidr", () => {
    it("keeps the host part and shortens the address", () => {
      assert.deepEqual(parseCidr("10.1.2.3/16"), { family: 4, address: "10.1.2.3", length: 16 });
      assert.deepEqual(parseCidr("FD00:0:0:0::0001/64"), { family: 6, address: "fd00::1", length: 64 });
      assert.deepEqual(parseCidr("0.0.0.0/0"), { family: 4, address: "0.0.0.0", length: 0 });
      assert.deepEqual(parseCidr("::/0"), { family: 6, address: "::", length: 0 });
    });

    for (const text of [
      ...["", "/", "10.1.2.3", "10.1.2.3/", "/16", "10.1.2.3/33", "::1/129", "10.1.2.3/16/8", "10.1.2.3/-1"],
      ...["10.1.2.3/1e1", "10.1.2.3/ 8", "10.1.2/24", "10.1.2.256/24", "g::1/64", "1:2/64", "host/24"],
      ...["10.1.2.3/0x8", "0x0a010203/24", "10.1.2.3 /24"],
    ])
      it(`refuses "${text}"`, () => {
        assert.throws(() => parseCidr(text), InvalidError);
      });

    it("reads every address with every length", () => {
      fc.assert(
        fc.property(cidr, (text) => {
          const { family, address, length } = parseCidr(text);
          assert.equal(family === 4, isIPv4(address));
          assert.equal(family === 6, isIPv6(address));
          assert.deepEqual(parseCidr(`${address}/${String(length)}`), { family, address, length });
        }),
      );
    });

    it("throws nothing but InvalidError, whatever it is given", () => {
      fc.assert(
        fc.property(
          fc.oneof(
            fc.string(),
            fc.tuple(fc.string(), fc.nat()).map((parts) => parts.join("/")),
          ),
          (text) => {
            try {
              parseCidr(text);
            } catch (error) {
              assert.ok(error instanceof InvalidError);
            }
          },
        ),
      );
    });
  });

  it("takes IPv4 mapped into IPv6 for IPv6", () => {
    assert.equal(parseIp("::ffff:10.1.2.3").family, 6);
    assert.equal(contains("10.0.0.0/8", "::ffff:10.1.2.3"), false);
  });

  it("writes IPv6 as the kernel's tools do (RFC 5952, section 4)", () => {
    fc.assert(
      fc.property(v6, fc.integer({ min: 0, max: 128 }), (text, length) => {
        // So does the URL standard.
        const canonical = (address: string) => new URL(`http://[${address}]`).hostname.slice(1, -1);
        assert.equal(parseIp(text).address, canonical(text));
        assert.equal(formatIp(ipBytes(text)), canonical(text));
        const network = bare(subnetOf(`${text}/${String(length)}`));
        assert.equal(network, canonical(network));
      }),
      {
        examples: [
          ["2001:db8:0:1:2:3:4:5", 112],
          ["1:0:0:2:0:0:3:4", 128],
          ["0:1:2:3:4:5:6:0", 96],
        ],
      },
    );
  });

  it("tells addresses from other text", () => {
    for (const text of ["10.1.2.3", "::", "fd00::1", "255.255.255.255"]) assert.equal(isIp(text), true, text);
    for (const text of ["", "10.1.2", "10.1.2.3/8", "1", "fd00::1%eth0", "a.b.c.d", ":::"])
      assert.equal(isIp(text), false, text);
  });

  it("cuts a CIDR down to its subnet and to its address", () => {
    assert.equal(subnetOf("10.1.2.3/16"), "10.1.0.0/16");
    assert.equal(subnetOf("10.1.2.3/0"), "0.0.0.0/0");
    assert.equal(subnetOf("10.1.2.3/32"), "10.1.2.3/32");
    assert.equal(subnetOf("fd00:1:2:3:4::5/64"), "fd00:1:2:3::/64");
    assert.equal(bare("fd00::0:5/64"), "fd00::5");
  });

  it("knows what address a link gives itself, where it does", () => {
    assert.equal(autoconfigured("fd00:1::5/64", "02:42:0a:4d:00:64"), "fd00:1::42:aff:fe4d:64");
    assert.equal(autoconfigured("fd00:1::5/64", "00:11:22:33:44:55"), "fd00:1::211:22ff:fe33:4455");
    assert.equal(autoconfigured("fd00:1::5/80", "02:42:0a:4d:00:64"), undefined);
    assert.equal(autoconfigured("10.1.0.5/24", "02:42:0a:4d:00:64"), undefined);
  });

  it("finds every address in the subnet it is cut down to", () => {
    fc.assert(fc.property(cidr, (text) => contains(subnetOf(text), bare(text))));
  });

  it("tells what lies in a subnet", () => {
    assert.equal(contains("10.1.0.0/16", "10.1.255.255"), true);
    assert.equal(contains("10.1.0.0/16", "10.2.0.0"), false);
    assert.equal(contains("10.1.5.0/16", "10.1.9.9"), true);
    assert.equal(contains("fd00::/64", "fd00::ffff"), true);
    assert.equal(contains("fd00::/64", "fd00:0:0:1::"), false);
    assert.equal(contains("0.0.0.0/0", "::1"), false);
    assert.equal(contains("::/0", "10.0.0.1"), false);
  });

  it("tells which subnets overlap, in either order", () => {
    for (const [a, b, expected] of [
      ["10.0.0.0/8", "10.1.0.0/16", true],
      ["10.1.0.0/16", "10.2.0.0/16", false],
      ["10.1.0.0/16", "10.1.0.0/16", true],
      ["0.0.0.0/0", "192.168.0.0/24", true],
      ["0.0.0.0/0", "fd00::/64", false],
      ["fd00::/48", "fd00::/64", true],
      ["::/0", "10.0.0.0/8", false],
      ["172.17.0.1/16", "172.17.5.0/24", true],
    ] as const) {
      assert.equal(overlaps(a, b), expected, `${a} ${b}`);
      assert.equal(overlaps(b, a), expected, `${b} ${a}`);
    }
  });

  it("writes an address to bytes and reads it back", () => {
    assert.deepEqual([...ipBytes("10.1.2.3")], [10, 1, 2, 3]);
    assert.equal(ipBytes("fd00::1").toString("hex"), "fd000000000000000000000000000001");
    fc.assert(
      fc.property(fc.oneof(v4, v6), (text) => {
        const { address } = parseIp(text);
        assert.equal(formatIp(ipBytes(address)), address);
      }),
    );
  });
});
