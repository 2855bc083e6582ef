import assert from "node:assert/strict";
import { bridgeOf, interfaces } from "./interfaces.ts";
import { onNewestEngine } from "./newest-engine.ts";
import { subnets } from "./site.ts";

const CONTAINERS = 32;
/** The engine itself takes a container at a time through much of this, on a machine that does other things. */
const MOST_MS = 120_000;

onNewestEngine("containers started at once", (site) => {
  after(() => site.clear());

  it(`all ${String(CONTAINERS)} run on one network, the first reaches the last, and nothing is left`, async function () {
    this.timeout(2 * MOST_MS);
    const { v4 } = subnets();
    const before = await links();
    const network = await site.network("red", "--subnet", v4);
    const names = Array.from({ length: CONTAINERS }, (_, index) => `box${String(index)}`);
    await Promise.all(
      names.map((name) => site.docker("create", "--name", name, "--network", "red", "tsnet/box")),
    );
    const start = performance.now();
    await Promise.all(names.map((name) => site.docker("start", name)));
    const took = performance.now() - start;
    console.log(`        ${took.toFixed(0)} ms`);
    assert.ok(took < MOST_MS, `it took ${took.toFixed(0)} ms`);
    const attachments = await Promise.all(names.map((name) => site.attachment(name, "red")));
    assert.equal(new Set(attachments.map((one) => one.v4)).size, CONTAINERS);
    const ports = (await links()).filter(({ master }) => master === bridgeOf(network));
    assert.equal(ports.length, CONTAINERS);
    const [first, last] = [site.container("box0"), attachments.at(-1)?.v4 ?? ""];
    await first.exec(["ping", "-c", "1", "-W", "2", last]);
    await site.clear();
    assert.deepEqual(await links(), before);
  });

  async function links(): Promise<{ ifname: string; master: string | undefined }[]> {
    return Object.values(await interfaces(site)).map(({ ifname, master }) => ({ ifname, master }));
  }
});
