import assert from "node:assert/strict";
import { mock } from "node:test";
import { EngineBridges } from "../../../src/docker/bridges.ts";
import { FakeLinks } from "../../support/fake-links.ts";

const MADE = "br-0123456789ab";
/** What the bridge is called that a user named. */
const NAMED = { name: "lab", internal: false };
const USUAL = { ...NAMED, name: MADE };

describe("EngineBridges", () => {
  let links: FakeLinks;
  let engine: { bridges: () => Promise<(typeof NAMED)[]> };
  let bridges: EngineBridges;
  let kept: { name: string; internal: boolean }[];

  beforeEach(() => {
    links = new FakeLinks();
    for (const name of ["docker0", MADE, "lab", "virbr0"]) plug(name);
    plug("ts-1", "tsnet network 1");
    engine = { bridges: () => Promise.reject(new Error("no engine")) };
    kept = [
      { name: "lab", internal: false },
      { name: MADE, internal: false },
    ];
    const known = { kept: () => Promise.resolve(kept), isUsed: (name: string) => name === "own" };
    bridges = new EngineBridges(links.host, { bridges: () => engine.bridges() }, known);
    mock.timers.enable({ apis: ["Date"] });
  });
  afterEach(() => {
    mock.timers.reset();
  });

  const plug = (name: string, alias = "") => {
    links.plug(name, { kind: "bridge", alias });
  };
  const says = (...networks: (typeof NAMED)[]) => {
    engine.bridges = () => Promise.resolve(networks);
  };
  const there = async () => (await bridges.list()).map(({ name }) => name);
  const internal = async () =>
    (await bridges.list()).filter((bridge) => bridge.internal).map(({ name }) => name);

  it("are those with its usual names, and until it answers those that were kept apart before", async () => {
    assert.deepEqual(await there(), ["docker0", MADE, "lab"]);
    assert.equal(await bridges.ask(), undefined);
    assert.deepEqual(await there(), ["docker0", MADE, "lab"]);
  });

  it("are told with the subnets of their addresses", async () => {
    const addresses = {
      docker0: ["172.17.0.1/16", "fe80::1/64"],
      lab: ["10.9.0.1/24", "10.9.0.2/24", "fd09::1/64"],
    };
    links.addresses = Object.entries(addresses).flatMap(([name, cidrs]) => {
      const index = links.get(name)?.index ?? assert.fail();
      return cidrs.map((cidr) => ({ index, cidr, usable: true, passing: false }));
    });
    assert.deepEqual(
      (await bridges.list()).map(({ name, subnets }) => [name, subnets]),
      [
        ["docker0", ["172.17.0.0/16"]],
        [MADE, []],
        ["lab", ["10.9.0.0/24", "fd09::/64"]],
      ],
    );
  });

  it("are until it answers those that come after tsnet too, but for one that a network of tsnet's is on", async () => {
    await bridges.list();
    for (const name of ["late", "own"]) plug(name);
    assert.deepEqual(await there(), ["docker0", MADE, "lab", "late"]);
    says(NAMED, USUAL);
    assert.equal(await bridges.ask(), true);
    assert.deepEqual(await there(), ["docker0", MADE, "lab"]);
  });

  it("are what it said last while it does not answer", async () => {
    says({ ...NAMED, name: "virbr0" }, USUAL, NAMED);
    assert.equal(await bridges.ask(), true);
    assert.equal(await bridges.ask(), false);
    engine.bridges = () => Promise.reject(new Error("no engine"));
    plug("late");
    assert.equal(await bridges.ask(), undefined);
    assert.deepEqual(await there(), ["docker0", MADE, "lab", "virbr0"]);
  });

  it("are internal where it says so, and it is asked once of those whose name tells that they are its", async () => {
    for (const name of ["lab", "virbr0"]) links.unplug(name);
    assert.deepEqual(await internal(), []);
    says({ ...USUAL, internal: true });
    assert.equal(await bridges.ask(), true);
    assert.deepEqual(await internal(), [MADE]);
    engine.bridges = () => assert.fail("it has said all");
    assert.equal(await bridges.ask(), false);
  });

  it("are internal as they were before until it answers, and if they are new", async () => {
    kept.push({ name: MADE, internal: true });
    await bridges.list();
    for (const name of ["late", "br-ba9876543210"]) plug(name);
    assert.deepEqual(await internal(), [MADE, "late", "br-ba9876543210"]);
    says(NAMED, USUAL, { ...USUAL, name: "late" }, { ...USUAL, name: "br-ba9876543210" });
    assert.equal(await bridges.ask(), true);
    assert.deepEqual(await internal(), []);
  });

  it("are asked for again until they are listed, but not for ever: they may be another engine's", async () => {
    for (const name of ["lab", "virbr0"]) links.unplug(name);
    says();
    kept = [];
    assert.equal(await bridges.ask(), undefined);
    plug("br-ba9876543210");
    mock.timers.tick(4999);
    assert.equal(await bridges.ask(), undefined);
    assert.deepEqual(await internal(), [MADE, "br-ba9876543210"]);
    mock.timers.tick(1);
    assert.equal(await bridges.ask(), true);
    assert.equal(await bridges.ask(), undefined);
    assert.deepEqual(await internal(), ["br-ba9876543210"]);
    says({ ...USUAL, internal: true, name: "br-ba9876543210" });
    assert.equal(await bridges.ask(), false);
    assert.deepEqual(await internal(), ["br-ba9876543210"]);
  });
});
