#!/usr/bin/env node
import { Command } from "commander";
import { portsCommand } from "./cli/ports.ts";
import { statusCommand } from "./cli/status.ts";
import { storeCommand } from "./cli/store.ts";
import { Config, flag, settle, variable } from "./config.ts";
import { reason } from "./errors.ts";
import { daemon } from "./daemon.ts";

const program = new Command("tsnet").description("A Docker network driver").version("0.1.0");
const command = program.command("daemon").description("serve the engine: docker network create -d tsnet …");
for (const [setting, schema] of Object.entries(Config.shape)) {
  const { description = "" } = schema.meta() ?? {};
  const fallback = schema.def.defaultValue;
  command.option(`${flag(setting)} <value>`, `${description} (default ${fallback}; ${variable(setting)})`);
}
program.addCommand(portsCommand()).addCommand(statusCommand()).addCommand(storeCommand());
command.action((flags: Record<string, unknown>) => daemon(settle(flags, process.env)));

try {
  await program.parseAsync();
} catch (error) {
  process.stderr.write(`tsnet: ${reason(error)}\n`);
  process.exitCode = 1;
}
