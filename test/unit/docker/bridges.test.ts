import assert from "node:assert/strict";
import { EngineBridges } from "../../../src/docker/bridges.ts";
import { FakeLinks } from "../../support/fake-links.ts";

const NAMED = { id: "1", driver: "bridge", bridge: "lab" };

describe("EngineBridges", () => {
  let links: FakeLinks;
  let engine: { networks: () => Promise<(typeof NAMED)[]> };
  let bridges: EngineBridges;

  beforeEach(() => {
    links = new FakeLinks();
    for (const name of ["docker0", "br-0123456789ab", "lab", "virbr0"]) plug(name);
    plug("ts-1", "tsnet network 1");
    engine = { networks: () => Promise.reject(new Error("no engine")) };
    const known = {
      isClosed: (name: string) => Promise.resolve(name === "lab"),
      isUsed: (name: string) => name === "own",
    };
    bridges = new EngineBridges(links.host, { networks: () => engine.networks() }, known);
  });

  const plug = (name: string, alias = "") => {
    links.plug(name, { kind: "bridge", alias });
  };

  it("are those with its usual names, and until it answers those that were kept apart before", async () => {
    assert.deepEqual(await bridges.there(), ["br-0123456789ab", "docker0", "lab"]);
    assert.equal(await bridges.learn(), undefined);
    assert.deepEqual(await bridges.there(), ["br-0123456789ab", "docker0", "lab"]);
  });

  it("are until it answers those that come after tsnet too, but for one that a network of tsnet's is on", async () => {
    await bridges.there();
    for (const name of ["late", "own"]) plug(name);
    assert.deepEqual(await bridges.there(), ["br-0123456789ab", "docker0", "lab", "late"]);
    engine.networks = () => Promise.resolve([NAMED]);
    assert.equal(await bridges.learn(), true);
    assert.deepEqual(await bridges.there(), ["br-0123456789ab", "docker0", "lab"]);
  });

  it("are what it said last while it does not answer", async () => {
    engine.networks = () => Promise.resolve([{ ...NAMED, bridge: "virbr0" }]);
    assert.equal(await bridges.learn(), true);
    assert.equal(await bridges.learn(), false);
    engine.networks = () => Promise.reject(new Error("no engine"));
    plug("late");
    assert.equal(await bridges.learn(), undefined);
    assert.deepEqual(await bridges.there(), ["br-0123456789ab", "docker0", "virbr0"]);
  });
});
