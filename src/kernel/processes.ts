import { readdirSync } from "node:fs";

/** Every process that can be seen from here (proc(5)); it may have ended by the time that it is looked at. */
export function processIds(): string[] {
  return readdirSync("/proc").filter((name) => /^\d+$/.test(name));
}
