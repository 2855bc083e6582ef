import { readdirSync } from "node:fs";

/**
 * Every process that can be seen from here (proc(5)), the lowest number first; it may have ended by the time that it is
 * looked at.
 */
export function processIds(): string[] {
  const ids = readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  return ids.sort((a, b) => Number(a) - Number(b));
}
