import { cpSync, mkdirSync, readFileSync, readdirSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import ts from "typescript";

const ROOT = join(import.meta.dirname, "../../..");

/** What the victim is made of. */
const PARTS = ["src", "test/support", "test/integration/crash"];

/**
 * Translates the sources as they are now into a directory: a process starts from there in a third of the time that
 * it takes with tsx.
 *
 * @returns path of the victim's program
 */
export function compile(to: string): string {
  const { config } = ts.readConfigFile(join(ROOT, "tsconfig.json"), (path) => readFileSync(path, "utf8")) as {
    config: { compilerOptions: object };
  };
  const { options } = ts.convertCompilerOptionsFromJson(config.compilerOptions, ROOT);
  for (const part of PARTS)
    for (const file of readdirSync(join(ROOT, part), { recursive: true, encoding: "utf8" })) {
      if (!file.endsWith(".ts") || file.endsWith(".d.ts")) continue;
      const source = readFileSync(join(ROOT, part, file), "utf8");
      const { outputText } = ts.transpileModule(source, {
        compilerOptions: { ...options, noEmit: false, module: ts.ModuleKind.ESNext },
      });
      const path = join(to, part, file.replace(/\.ts$/, ".js"));
      mkdirSync(dirname(path), { recursive: true });
      writeFileSync(path, outputText);
    }
  cpSync(join(ROOT, "package.json"), join(to, "package.json"));
  symlinkSync(join(ROOT, "node_modules"), join(to, "node_modules"));
  return join(to, "test/integration/crash/victim.js");
}
