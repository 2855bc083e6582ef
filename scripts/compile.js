// Keeps beside a CommonJS file what V8 compiles of it, for src/launch.ts: node scripts/compile.js FILE
import { readFileSync, writeFileSync } from "node:fs";
import Module from "node:module";
import process from "node:process";
import { Script } from "node:vm";
import { crc32 } from "node:zlib";

const [, , file] = process.argv;
const text = readFileSync(file);
// What runs as it is loaded. The rest V8 compiles when it is called first, as the daemon's flags have it (src/daemon.ts).
const data = new Script(Module.wrap(text.toString()), { filename: file }).createCachedData();
// V8 itself does not notice when it is damaged, or of another text as long as this one.
const digest = Buffer.alloc(4);
digest.writeUInt32BE(crc32(data, crc32(text)));
writeFileSync(`${file}.compiled`, Buffer.concat([data, digest]));
