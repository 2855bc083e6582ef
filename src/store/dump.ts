import * as z from "zod";
import { InvalidError, firstIssue, reason } from "../errors.ts";
import { problems } from "./audit.ts";
import { type Records, VERSION, migrate } from "./migration.ts";

/** A store as JSON. */
const Dump = z.object({
  /** That of the program that wrote it. */
  version: z.number().int().positive(),
  records: z.record(z.string(), z.unknown()),
});

/** A store as text that {@link parseDump} reads, for people and for other machines. */
export function formatDump(records: Records): string {
  const dump: z.infer<typeof Dump> = { version: VERSION, records: Object.fromEntries(records) };
  return `${JSON.stringify(dump, null, 2)}\n`;
}

/**
 * The records of an export, of this version or an older one.
 *
 * @param backends names of those there are
 * @throws {InvalidError} that says in one line what cannot be read, or is wrong with the records
 */
export function parseDump(text: string, backends: readonly string[]): Records {
  const parsed = Dump.safeParse(json(text));
  if (!parsed.success) {
    const { path, message } = firstIssue(parsed.error);
    throw new InvalidError(`not an export of tsnet: ${path}: ${message}`);
  }
  const { version, records } = parsed.data;
  if (version > VERSION)
    throw new InvalidError(`an export of version ${version}, but this tsnet knows up to ${VERSION}`);
  const migrated = migrate(new Map(Object.entries(records)), version);
  const [first, ...more] = problems(migrated, backends);
  if (first) throw new InvalidError(more.length === 0 ? first : `${first}; and ${more.length} more like it`);
  return migrated;
}

function json(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new InvalidError(`not JSON: ${reason(cause)}`, { cause });
  }
}
