import assert from "node:assert/strict";
import { Links, type NewLink } from "../../../src/kernel/link.ts";
import { Attributes, text } from "../../../src/kernel/netlink/message.ts";
import type { Rtnetlink } from "../../../src/kernel/netlink/rtnetlink.ts";

/** Numbers of linux/if_link.h. */
const IFLA = { IFNAME: 3, LINK: 5, LINKINFO: 18, NET_NS_FD: 28 };
const INFO = { KIND: 1, DATA: 2 };

describe("Links.add", () => {
  it("says what a macvlan sits on, its mode, and the namespace it is made in", async () => {
    const { top, kind, inside } = await sent({
      ...{ name: "m", group: 1, kind: "macvlan", netns: 33 },
      macvlan: { parent: 7, mode: "vepa" },
    });
    assert.equal(kind, "macvlan");
    assert.equal(top.u32(IFLA.LINK), 7);
    assert.equal(top.u32(IFLA.NET_NS_FD), 33);
    // MACVLAN_MODE_VEPA
    assert.equal(inside.u32(1), 2);
  });

  it("says what a VLAN sits on, and its number in 16 bits", async () => {
    const { top, kind, inside } = await sent({
      ...{ name: "eth0.4094", group: 1, kind: "vlan" },
      vlan: { parent: 3, id: 4094 },
    });
    assert.equal(kind, "vlan");
    assert.equal(top.u32(IFLA.LINK), 3);
    assert.equal(top.has(IFLA.NET_NS_FD), false);
    // IFLA_VLAN_ID
    assert.equal(inside.get(1)?.toString("hex"), "fe0f");
  });

  it("says no more of a dummy than what it is", async () => {
    const { top, kind, data } = await sent({ name: "d", group: 1, kind: "dummy" });
    assert.deepEqual([kind, data, top.has(IFLA.LINK)], ["dummy", undefined, false]);
  });
});

describe("Links.remember", () => {
  const named = (name: string) => Buffer.concat([Buffer.alloc(16), text(IFLA.IFNAME, name)]);

  it("answers from the list, but not from one that was out of date before it was whole", async () => {
    let asked = 0;
    let during: () => void = () => undefined;
    const links = new Links({
      dump: async () => {
        during();
        return [named("a"), named("b")];
      },
      request: async () => {
        asked += 1;
        return named("a");
      },
    } as unknown as Rtnetlink);
    assert.deepEqual(
      (await links.remember()).map(({ name }) => name),
      ["a", "b"],
    );
    assert.equal((await links.get("a"))?.name, "a");
    assert.equal(asked, 0);
    during = () => {
      links.forget();
    };
    assert.equal((await links.remember()).length, 2);
    assert.equal((await links.get("a"))?.name, "a");
    assert.equal(asked, 1);
  });
});

/** The attributes of the request that a link is made with. */
async function sent(link: NewLink) {
  let payload: Buffer = Buffer.alloc(0);
  const netlink = {
    request: async (_command: string, _type: number, _flags: number, sent: Buffer) => {
      payload = sent;
      return Buffer.alloc(0);
    },
  };
  await new Links(netlink as unknown as Rtnetlink).add(link);
  const top = new Attributes(payload, 16);
  const info = top.nest(IFLA.LINKINFO);
  return { top, kind: info.text(INFO.KIND), data: info.get(INFO.DATA), inside: info.nest(INFO.DATA) };
}
