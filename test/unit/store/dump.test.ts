import assert from "node:assert/strict";
import { formatDump, parseDump } from "../../../src/store/dump.ts";
import { VERSION } from "../../../src/store/migration.ts";
import { id } from "../../support/requests.ts";
import { endpoint, network } from "./records.ts";

const RECORDS = new Map<string, unknown>([
  [`network/${id(1)}`, network(1)],
  [`endpoint/${id(1)}/${id(2)}`, endpoint(2, 1)],
]);

const BACKENDS = ["bridge", "macvlan"];

describe("an export", () => {
  it("is read as it was written", () => {
    assert.deepEqual(parseDump(formatDump(RECORDS), BACKENDS), RECORDS);
    assert.deepEqual(parseDump(formatDump(new Map()), BACKENDS), new Map());
  });

  it("of an older version that has nothing for a record is refused with that one's name", () => {
    const text = JSON.stringify({ version: 2, records: { "endpoint/a/b": null } });
    assert.throws(() => parseDump(text, BACKENDS), { name: "InvalidError", message: /^endpoint\/a\/b: / });
  });

  it("of version 1 is read", () => {
    assert.deepEqual(
      parseDump(formatDump(RECORDS).replace(`"version": ${VERSION}`, '"version": 1'), BACKENDS),
      RECORDS,
    );
  });

  it("of version 2 is read, in which an endpoint that was left said only that it was", () => {
    const text = formatDump(RECORDS).replace(`"version": ${VERSION}`, '"version": 2');
    const left = text.replace('"mac":', '"left": true, "mac":');
    assert.notEqual(left, text);
    const [, was] = [...parseDump(left, BACKENDS)];
    assert.deepEqual(was, [`endpoint/${id(1)}/${id(2)}`, { ...endpoint(2, 1), left: "" }]);
  });

  const wrong: Record<string, [string, RegExp]> = {
    "is no JSON": ["{", /^not JSON: [^\n]+$/],
    "is something else": ['{"networks": []}', /^not an export of tsnet: version: [^\n]+$/],
    "is of a newer version": [
      JSON.stringify({ version: VERSION + 1, records: {} }),
      new RegExp(`^an export of version ${VERSION + 1}, but this tsnet knows up to ${VERSION}$`),
    ],
    "has one record that is wrong": [
      formatDump(new Map([...RECORDS, ["pool/1", 1]])),
      /^pool\/1: its key is not known$/,
    ],
    "has several": [
      formatDump(new Map([...RECORDS, ["pool/1", 1], ["pool/2", 2], ["pool/3", 3]])),
      /^pool\/1: its key is not known; and 2 more like it$/,
    ],
  };
  for (const [kind, [text, message]] of Object.entries(wrong))
    it(`that ${kind} is refused in one line`, () => {
      assert.throws(() => parseDump(text, BACKENDS), { name: "InvalidError", message });
    });
});
