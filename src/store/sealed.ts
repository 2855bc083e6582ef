import { crc32 } from "node:zlib";
import { must } from "./damage.ts";

/** Hexadecimal digits of the digest, and the space behind them. */
const DIGEST = 8;

/** A record's text: JSON behind a digest of key and JSON, since LMDB does not notice when bytes change on the disk. */
export function seal(key: string, value: unknown): string {
  const json = JSON.stringify(value);
  return `${digest(key, json)} ${json}`;
}

/** @throws {DamageError} if key or text are not what was sealed */
export function unseal(key: string, text: string): unknown {
  const json = text.slice(DIGEST + 1);
  must(text.startsWith(`${digest(key, json)} `), () => `record ${key} is not what was written`);
  return JSON.parse(json);
}

function digest(key: string, json: string): string {
  return crc32(`${key} ${json}`).toString(16).padStart(DIGEST, "0");
}
