import { Command } from "commander";
import manifest from "../package.json" with { type: "json" };
import { portsCommand } from "./cli/ports.ts";
import { withSetting } from "./cli/setting.ts";
import { statusCommand } from "./cli/status.ts";
import { storeCommand } from "./cli/store.ts";
import { Config, readSettings } from "./config.ts";
import { isErrno, reason } from "./errors.ts";
import { daemon } from "./daemon.ts";

const program = new Command("tsnet")
  .description("A Docker network driver: docker network create -d tsnet …")
  .version(manifest.version);
const daemonCommand = program.command("daemon").description("run the driver in the foreground");
for (const setting of Object.keys(Config.shape)) withSetting(daemonCommand, setting as keyof Config);
program.addCommand(portsCommand()).addCommand(statusCommand()).addCommand(storeCommand());
daemonCommand.action((flags: Record<string, unknown>) => daemon(readSettings(flags, process.env)));

/** Status of a program that SIGPIPE has ended, which Node has switched off. */
const SIGPIPE = 141;
program.hook("preAction", (_, chosen) => {
  // It logs by a way of its own, and goes on where nobody reads that.
  if (chosen === daemonCommand) return;
  process.stdout.on("error", (error) => {
    // Whoever reads has read enough.
    if (isErrno(error, "EPIPE")) process.exit(SIGPIPE);
    process.stderr.write(`tsnet: standard output: ${reason(error)}\n`);
    process.exit(1);
  });
});

program.parseAsync().catch((error: unknown) => {
  process.stderr.write(`tsnet: ${reason(error)}\n`);
  // A daemon that cannot watch the host must not go on listening as if it did.
  process.exit(1);
});
