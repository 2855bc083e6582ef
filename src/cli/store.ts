import { Command } from "commander";
import { readFileSync, writeFileSync } from "node:fs";
import { Config, flag, variable } from "../config.ts";
import { ConflictError, InvalidError, TsnetError, reason } from "../errors.ts";
import { problems } from "../store/audit.ts";
import { lockDirectory } from "../store/directory-lock.ts";
import { formatDump, parseDump } from "../store/dump.ts";
import { readStore, replaceStore } from "../store/state-directory.ts";
import type { StoreFile } from "../store/store-file.ts";

interface Where {
  readonly stateDir: string;
}

/** `tsnet store`: looks at what the daemon remembers, and moves it. */
export function storeCommand(): Command {
  const command = new Command("store").description("what the daemon remembers: verify it, move it");
  at(command.command("check"))
    .summary("verify every record")
    .description(
      "Verifies the store to the last byte: the file, each record, and that they belong together. Changes nothing, and works " +
        "beside a running daemon. Exit status 1 if anything is wrong, with one line for each thing.",
    )
    .action(check);
  at(command.command("export"))
    .summary("write it as JSON")
    .description(
      "Writes every network and endpoint as JSON, to FILE or standard output. Works beside a running daemon.",
    )
    .argument("[file]", "where to; - is standard output", "-")
    .action(exportTo);
  at(command.command("import"))
    .summary("read it from an export")
    .description(
      "Puts an export in the place of the store, all of it or nothing. The daemon must not be running; it makes the " +
        "host as the export says when it starts.",
    )
    .argument("<file>", "an export; - is standard input")
    .option("--force", "also where there is a store already, which is lost")
    .action(importFrom);
  return command;
}

/** With the daemon's own setting of the state directory. */
function at(command: Command): Command {
  const fallback = process.env[variable("stateDir")] ?? Config.shape.stateDir.def.defaultValue;
  return command.option(
    `${flag("stateDir")} <dir>`,
    `${Config.shape.stateDir.meta()?.description ?? ""} (${variable("stateDir")})`,
    fallback,
  );
}

function check({ stateDir }: Where): void {
  const { version, records } = mustHave(stateDir);
  const wrong = problems(records);
  if (wrong.length > 0) {
    for (const problem of wrong) process.stderr.write(`tsnet: store ${stateDir}: ${problem}\n`);
    process.exitCode = 1;
    return;
  }
  const count = (kind: string) => [...records.keys()].filter((key) => key.startsWith(`${kind}/`)).length;
  process.stdout.write(
    `store ${stateDir}: version ${version}, networks ${count("network")}, endpoints ${count("endpoint")}: all is well\n`,
  );
}

function exportTo(file: string, { stateDir }: Where): void {
  const text = formatDump(mustHave(stateDir).records);
  if (file === "-") process.stdout.write(text);
  else
    onFile("write", file, () => {
      writeFileSync(file, text, { mode: 0o600 });
    });
}

function importFrom(file: string, { stateDir, force }: Where & { force?: boolean }): void {
  const text = onFile("read", file, () => readFileSync(file === "-" ? 0 : file, "utf8"));
  const records = onFile("read", file, () => parseDump(text));
  const unlock = lockDirectory(stateDir);
  try {
    if (!force && (readStore(stateDir)?.records.size ?? 0) > 0)
      throw new ConflictError(`${stateDir} has a store already; --force replaces it`);
    replaceStore(stateDir, records);
  } finally {
    unlock();
  }
}

function mustHave(stateDir: string): StoreFile {
  const file = readStore(stateDir);
  if (file) return file;
  throw new TsnetError("store", `there is no store in ${stateDir}; --state-dir says where the daemon has it`);
}

function onFile<T>(what: string, file: string, fn: () => T): T {
  try {
    return fn();
  } catch (cause) {
    throw new InvalidError(`${what} ${file}: ${reason(cause)}`, { cause });
  }
}
