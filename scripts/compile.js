// Keeps beside a CommonJS file what V8 compiles of it, for src/launch.ts: node scripts/compile.js FILE
import { readFileSync, writeFileSync } from "node:fs";
import Module from "node:module";
import process from "node:process";
import { setFlagsFromString } from "node:v8";
import { Script } from "node:vm";
import { crc32 } from "node:zlib";

const [, , file] = process.argv;
const text = readFileSync(file);
// All of its functions, and not only those that are run at once.
setFlagsFromString("--no-lazy");
const script = new Script(Module.wrap(text.toString()), { filename: file });
// V8 takes nothing that was made with other flags than those that it has.
setFlagsFromString("--lazy");
const data = script.createCachedData();
// V8 itself does not notice when it is damaged, or of another text as long as this one.
const digest = Buffer.alloc(4);
digest.writeUInt32BE(crc32(data, crc32(text)));
writeFileSync(`${file}.compiled`, Buffer.concat([data, digest]));
