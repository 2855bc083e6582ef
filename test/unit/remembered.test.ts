import assert from "node:assert/strict";
import { Remembered } from "../../src/remembered.ts";

describe("Remembered", () => {
  it("keeps what was read until it is forgotten", async () => {
    const remembered = new Remembered<string>();
    assert.equal(remembered.value, undefined);
    assert.equal(await remembered.fill(() => Promise.resolve("read")), "read");
    assert.equal(remembered.value, "read");
    remembered.forget();
    assert.equal(remembered.value, undefined);
  });

  it("does not keep what is forgotten while it is read, nor what was there before", async () => {
    const remembered = new Remembered<string>();
    await remembered.fill(() => Promise.resolve("before"));
    const read = await remembered.fill(async () => {
      remembered.forget();
      return "out of date";
    });
    assert.equal(read, "out of date");
    assert.equal(remembered.value, undefined);
  });
});
