import assert from "node:assert/strict";
import { Host } from "../../src/kernel/host.ts";
import { LEAVING_GROUP, LINK_GROUP } from "../../src/names.ts";
import { ip, ipLink, ipLinks, mustBeIsolated, wipe } from "../support/isolated.ts";
import { until } from "../support/until.ts";

describe("links on their way out", () => {
  let host: Host;
  let failures: unknown[];

  before(mustBeIsolated);
  beforeEach(() => {
    failures = [];
    host = new Host((error) => failures.push(error));
  });
  afterEach(async () => {
    await host.close();
    await wipe();
    assert.deepEqual(failures, []);
  });

  const make = async (count: number) => {
    const names = Array.from({ length: count }, (_, number) => `pair${number}`);
    await ip(
      "link add keep type bridge",
      ...names.map((name) => `link add ${name} type veth peer name ${name}-p`),
    );
    return names;
  };
  const left = async () => (await ipLinks()).map(({ ifname }) => ifname).filter((name) => name !== "lo");

  for (const count of [1, 2, 40])
    it(`are gone with their other ends, ${count} at once, and no other link is`, async () => {
      const names = await make(count);
      assert.equal((await left()).length, 1 + 2 * count);
      await Promise.all(names.map((name) => host.discard(name)));
      await until("they are gone", async () => (await left()).length === 1);
      assert.deepEqual(await left(), ["keep"]);
    });

  it("may be gone already, or be sent off twice, one after the other and at once", async () => {
    const [name = ""] = await make(1);
    await host.discard("never-was");
    await Promise.all([host.discard(name), host.discard("never-was"), host.discard(name)]);
    await host.discard(name);
    await host.discard(`${name}-p`);
    await until("they are gone", async () => (await left()).length === 1);
    await host.discard(name);
  });

  it("go in the order in which they are sent while others are under way", async () => {
    const names = await make(40);
    for (const [index, name] of names.entries()) {
      await host.discard(name);
      // Time for a deletion to be under way when the next ones come.
      if (index % 10 === 9) await new Promise((resolve) => setTimeout(resolve, 5));
    }
    await until("they are gone", async () => (await left()).length === 1);
  });

  it("keep their name until they are gone, and whoever asks for it waits", async () => {
    const [name = ""] = await make(1);
    await host.discard(name);
    assert.equal(await host.link(name), undefined);
    assert.equal(await ipLink(name), undefined);
    await host.links.add({ name, kind: "bridge", group: LINK_GROUP, up: true });
    assert.equal((await host.link(name))?.kind, "bridge");
  });

  it("are marked for good: what a daemon that was killed had sent on its way is deleted by the next", async () => {
    await make(2);
    await ip(`link set pair0 group ${LEAVING_GROUP}`);
    host.discardLeavings();
    await until("it is gone", async () => (await left()).length === 3);
    assert.ok(await ipLink("pair1"));
  });

  it("do not hold up requests", async () => {
    const names = await make(40);
    const start = performance.now();
    await Promise.all(names.map((name) => host.discard(name)));
    const sent = performance.now() - start;
    const asked = performance.now();
    for (let times = 0; times < 20; times += 1) assert.ok(await host.links.get("keep"));
    const each = (performance.now() - asked) / 20;
    await until("they are gone", async () => (await left()).length === 1);
    // Forty grace periods one after the other are more than half a second.
    assert.ok(sent < 300, `sending them off took ${Math.round(sent)} ms`);
    assert.ok(each < 15, `a request took ${each.toFixed(1)} ms meanwhile`);
  });
});
