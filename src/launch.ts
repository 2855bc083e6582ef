#!/usr/bin/env node
import { readFileSync } from "node:fs";
import Module from "node:module";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { Script } from "node:vm";

type CommonJs = (
  exports: unknown,
  require: NodeJS.Require,
  module: { exports: unknown },
  file: string,
  directory: string,
) => void;

/*
 * Runs the program (main.ts) from what V8 made of it when it was built: to compile its two megabytes takes a fifth of a
 * second. A V8 of another version, or with other flags, does not take that and compiles it (vm.Script, cachedData).
 */
const file = fileURLToPath(new URL("program.cjs", import.meta.url));
const cachedData = read(`${file}.compiled`);
const script = new Script(Module.wrap(readFileSync(file, "utf8")), {
  filename: file,
  ...(cachedData && { cachedData }),
});
const module = { exports: {} };
(script.runInThisContext() as CommonJs)(
  module.exports,
  Module.createRequire(file),
  module,
  file,
  dirname(file),
);

function read(path: string): Buffer | undefined {
  try {
    return readFileSync(path);
  } catch {
    return undefined;
  }
}
