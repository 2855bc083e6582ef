import assert from "node:assert/strict";
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Rule } from "../../../src/firewall/rule.ts";
import { portRules, ruleSets } from "../../support/rule-sets.ts";

const GOLDEN = join(import.meta.dirname, "golden");

function print(titles: readonly string[], rules: readonly Rule[]): string {
  const heads = titles.map((title) => `# ${title}`);
  const lines = rules.map(({ table, name, spec }) => `-t ${table} -A ${name} ${spec}`);
  return [...heads, ...lines, ""].join("\n");
}

/** Compares with the file, or writes it where UPDATE_GOLDEN is set. */
function assertGolden(name: string, text: string): void {
  const path = join(GOLDEN, `${name}.rules`);
  if (process.env["UPDATE_GOLDEN"]) {
    mkdirSync(GOLDEN, { recursive: true });
    writeFileSync(path, text);
  }
  assert.equal(text, readFileSync(path, "utf8"));
}

/** The rules are written down, so that a change to one is a change that somebody has read. */
describe("bridgeRules", () => {
  const sets = ruleSets();
  const modes = [...new Set(sets.map(({ mode }) => mode))];

  for (const mode of modes)
    it(`makes the rules in golden/${mode}.rules (UPDATE_GOLDEN=1 writes them)`, () => {
      const these = sets.filter((set) => set.mode === mode);
      assertGolden(mode, these.map(({ titles, rules }) => print(titles, rules)).join("\n"));
    });

  it("has a golden file for every mode, and no combination is missing or there twice", () => {
    const files = readdirSync(GOLDEN).filter((name) => name !== "ports.rules");
    assert.deepEqual(files.sort(), modes.map((mode) => `${mode}.rules`).sort());
    const titles = sets.flatMap((set) => set.titles.map((title) => `${set.mode} ${title}`));
    assert.equal(titles.length, 4 * 2 ** 5);
    assert.equal(new Set(titles).size, titles.length);
  });

  it("marks every rule with its network", () => {
    for (const { rules } of sets)
      for (const { spec } of rules) assert.match(spec, / -m comment --comment tsnet-43f126c4baed -j /);
  });

  it("makes no rule twice", () => {
    for (const { titles, rules } of sets) {
      const texts = rules.map(({ table, name, spec }) => `${table} ${name} ${spec}`);
      assert.equal(new Set(texts).size, texts.length, titles[0]);
    }
  });
});

describe("portRule and openPortRule", () => {
  it("make the rules in golden/ports.rules", () => {
    assertGolden(
      "ports",
      ([4, 6] as const).map((family) => print([`IPv${family}`], portRules(family))).join("\n"),
    );
  });
});
