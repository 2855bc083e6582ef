import type { Command } from "commander";
import { Config, flag, variable } from "../config.ts";

/** Gives a command the flag of one of the daemon's settings; what it comes to is for {@link readSetting}. */
export function withSetting(command: Command, setting: keyof Config): Command {
  const schema = Config.shape[setting];
  const { description = "" } = schema.meta() ?? {};
  return command.option(
    `${flag(setting)} <value>`,
    `${description} (default: ${schema.def.defaultValue}, env: ${variable(setting)})`,
  );
}
