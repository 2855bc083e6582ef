/** What a store holds: values by key, `network/ID` and `endpoint/NETWORK/ID`. */
export type Records = ReadonlyMap<string, unknown>;

/** For each older version, what makes records of the next version of its records. */
const MIGRATIONS: readonly ((records: Records) => Records)[] = [
  // 1 to 2: a record got a digest, and the file its version. What the records say is the same.
  (records) => records,
  // 2 to 3: an endpoint that its container has left says which sandbox that was.
  (records) => new Map([...records].map(([key, value]) => [key, namingSandbox(value)])),
];

function namingSandbox(value: unknown): unknown {
  return (value as { left?: unknown } | null)?.left === true ? { ...(value as object), left: "" } : value;
}

/** The version that this program writes. Files that name none are of version 1. */
export const VERSION = MIGRATIONS.length + 1;

/** Brings records of an older version to today's. */
export function migrate(records: Records, version: number): Records {
  return MIGRATIONS.slice(version - 1).reduce((older, next) => next(older), records);
}
