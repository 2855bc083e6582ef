import { readSysctl, writeSysctl } from "../kernel/sysctl.ts";
import type { Step } from "../step.ts";

/**
 * A setting that must have this value. A setting that the kernel does not have, such as IPv6's on a kernel without
 * IPv6, is left out.
 *
 * @param before what to put back. Absent: nothing is, since a setting of a link goes with the link
 */
export function sysctl(name: string, value: string, before?: string): Step {
  return {
    what: `sysctl ${name}=${value}`,
    setting: name,
    async apply() {
      const now = readSysctl(name);
      if (now === undefined || now === value) return false;
      writeSysctl(name, value);
      return now;
    },
    async revert() {
      if (before !== undefined && readSysctl(name) === value) writeSysctl(name, before);
    },
  };
}
