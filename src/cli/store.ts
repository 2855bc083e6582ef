import { readFileSync, realpathSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { Command } from "commander";
import { OPTIONS } from "../backends/index.ts";
import { readSetting } from "../config.ts";
import { ConflictError, InvalidError, TsnetError, reason } from "../errors.ts";
import { problems } from "../store/audit.ts";
import { DirectoryLock } from "../store/directory-lock.ts";
import { formatDump, parseDump } from "../store/dump.ts";
import { currentBoot, mustSurvive, readStore, replaceStore } from "../store/state-directory.ts";
import type { StoreFile } from "../store/store-file.ts";
import { withSetting } from "./setting.ts";

const BACKENDS = Object.keys(OPTIONS);

interface Where {
  readonly stateDir?: string;
}

/** `tsnet store`: looks at what the daemon remembers, and moves it. */
export function storeCommand(): Command {
  const command = new Command("store").description("check, export or import the daemon's records");
  withSetting(command.command("check"), "stateDir")
    .summary("verify every record")
    .description(
      "Verifies the store to the last byte: its files, each record, and that the records fit together. Changes nothing, " +
        "and may run beside the daemon. Prints one line for each problem; the exit status is then 1.",
    )
    .action(check);
  withSetting(command.command("export"), "stateDir")
    .summary("write all records as JSON")
    .description(
      "Writes every network and endpoint as JSON to a file or standard output. May run beside the daemon.",
    )
    .argument("[file]", "file to write; - for standard output", "-")
    .action(exportTo);
  withSetting(command.command("import"), "stateDir")
    .summary("replace all records with an export")
    .description(
      "Replaces the store with an export, all of it or nothing. The daemon must be stopped; when it starts again, it " +
        "makes the host match the records.",
    )
    .argument("<file>", "export to read; - for standard input")
    .option("--force", "replace a store that has records; they are lost")
    .action(importFrom);
  return command;
}

function directory({ stateDir }: Where): string {
  return readSetting("stateDir", stateDir, process.env);
}

function check(where: Where): void {
  const stateDir = directory(where);
  const { version, records } = mustHave(stateDir);
  mustSurvive(stateDir, currentBoot());
  const wrong = problems(records, BACKENDS);
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

function exportTo(file: string, where: Where): void {
  const text = formatDump(mustHave(directory(where)).records);
  if (file === "-") process.stdout.write(text);
  else
    onFile("write", file, () => {
      writeWhole(file, text);
    });
}

/** Writes a file anew, or leaves it as it was; what is no file, such as a pipe, is written to. */
function writeWhole(file: string, text: string): void {
  const there = statSync(file, { throwIfNoEntry: false });
  if (there && !there.isFile()) {
    writeFileSync(file, text);
    return;
  }
  // A link to a file stays one.
  const path = there ? realpathSync(file) : file;
  const draft = `${path}.${process.pid}`;
  try {
    writeFileSync(draft, text, { mode: 0o600 });
    renameSync(draft, path);
  } finally {
    rmSync(draft, { force: true });
  }
}

function importFrom(file: string, { force, ...where }: Where & { force?: boolean }): void {
  const stateDir = directory(where);
  const text = onFile("read", file, () => readFileSync(file === "-" ? 0 : file, "utf8"));
  const records = onFile("read", file, () => parseDump(text, BACKENDS));
  const lock = new DirectoryLock(stateDir);
  try {
    if (!force && (readStore(stateDir, currentBoot())?.records.size ?? 0) > 0)
      throw new ConflictError(`${stateDir} has a store already; --force replaces it`);
    replaceStore(stateDir, records, currentBoot());
  } finally {
    lock.release();
  }
}

function mustHave(stateDir: string): StoreFile {
  const file = readStore(stateDir, currentBoot());
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
