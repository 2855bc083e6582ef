import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { optionsTable, settingsTable } from "../support/option-tables.ts";

const README = join(import.meta.dirname, "../../README.md");
const TABLES = { options: optionsTable, settings: settingsTable };

describe("README.md", () => {
  for (const [name, make] of Object.entries(TABLES)) {
    it(`has the ${name} that the schemas have (UPDATE_GOLDEN=1 writes them)`, () => {
      const text = readFileSync(README, "utf8");
      const place = new RegExp(`(<!-- ${name} -->\n)[^]*?(<!-- /${name} -->)`);
      const now = text.replace(
        place,
        (_, before: string, after: string) => `${before}\n${make()}\n\n${after}`,
      );
      if (process.env["UPDATE_GOLDEN"]) writeFileSync(README, now);
      else assert.equal(text, now);
    });
  }
});
