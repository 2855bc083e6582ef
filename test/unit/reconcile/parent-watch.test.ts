import assert from "node:assert/strict";
import type { Driver } from "../../../src/driver.ts";
import type { Link } from "../../../src/kernel/link.ts";
import type { Network } from "../../../src/model.ts";
import { ParentWatch } from "../../../src/reconcile/parent-watch.ts";
import type { State } from "../../../src/store/state.ts";
import { FakeLinks } from "../../support/fake-links.ts";

const NETWORKS = [{ id: "on px" }] as Network[];

describe("ParentWatch.changed", () => {
  let links: FakeLinks;
  let watch: ParentWatch;

  beforeEach(() => {
    links = new FakeLinks();
    const driver = { parents: () => ["px"] } as unknown as Driver;
    watch = new ParentWatch(driver, { networks: () => NETWORKS } as unknown as State);
    watch.learn([{ index: 7, name: "px" }]);
  });

  it("names a parent's networks when it is called otherwise, and when it has its name again", () => {
    assert.deepEqual(heard({ name: "py" }), ["on px"]);
    assert.deepEqual(heard({ name: "py" }), []);
    assert.deepEqual(heard({ name: "px" }), ["on px"]);
    assert.deepEqual(heard({ name: "px" }), []);
  });

  it("names them when it becomes a port, and when it is one no more", () => {
    heard({ name: "px" });
    assert.deepEqual(heard({ name: "px", master: 8 }), ["on px"]);
    assert.deepEqual(heard({ name: "px" }), ["on px"]);
  });

  it("names them when another link takes the name", () => {
    heard({ name: "px" });
    heard({ name: "py" });
    assert.deepEqual(heard({ name: "px", index: 8 }), ["on px"]);
    assert.deepEqual(heard({ name: "py" }), []);
  });

  it("names them once the name is back, though nothing was heard of its loss", () => {
    heard({ name: "px" });
    watch.learn([{ index: 7, name: "py" }]);
    assert.deepEqual(heard({ name: "px" }), ["on px"]);
    assert.deepEqual(heard({ name: "py" }), ["on px"]);
  });

  it("names nobody for an index that another link has after the parent was deleted", () => {
    assert.deepEqual(heard({ name: "px" }, true), ["on px"]);
    assert.deepEqual(heard({ name: "other" }), []);
  });

  /** The networks named for what the kernel tells of a link of index 7. */
  function heard(settings: Partial<Link>, gone = false): string[] {
    links.plug("heard", { index: 7, ...settings });
    const link = links.get("heard") ?? assert.fail();
    return watch.changed(link, gone).map(({ id }) => id);
  }
});
