// Keeps beside a CommonJS file what V8 compiles of it, for src/launch.ts: node scripts/compile.js FILE
import { readFileSync, writeFileSync } from "node:fs";
import Module from "node:module";
import process from "node:process";
import { setFlagsFromString } from "node:v8";
import { Script } from "node:vm";

const [, , file] = process.argv;
// All of its functions, and not only those that are run at once.
setFlagsFromString("--no-lazy");
const script = new Script(Module.wrap(readFileSync(file, "utf8")), { filename: file });
// V8 takes nothing that was made with other flags than those that it has.
setFlagsFromString("--lazy");
writeFileSync(`${file}.compiled`, script.createCachedData());
