import type { Family } from "../ip.ts";
import { type Hook, ORDERED, hooks } from "./layout.ts";
import { TABLES, type Table, chainKey, chainOf } from "./rule.ts";
import type { Saved } from "./saved.ts";

const ORDERED_CHAINS: ReadonlySet<string> = new Set(ORDERED.map(chainKey));

/** How to get from what is there to what should be. */
export interface Transaction {
  /** Input for iptables-restore; empty when nothing is to be done. */
  readonly text: string;
  /** Brings `saved` up to date once that has been done. */
  readonly done: () => void;
}

/**
 * The difference between what is there and what should be.
 *
 * @param wanted rules of each of tsnet's chains, by the chain's key; no jump leads to a chain that is not there
 * @param touched keys of the chains to compare: the others are known to be as they should be
 */
export function transaction(
  family: Family,
  saved: Saved,
  wanted: ReadonlyMap<string, ReadonlySet<string>>,
  touched: ReadonlySet<string>,
): Transaction {
  const builtin = new Map<string, readonly string[]>();
  const own = new Map<string, readonly string[] | undefined>();
  const lines: Record<Table, string[]> = { mangle: [], nat: [], filter: [] };
  const declared: Record<Table, string[]> = { mangle: [], nat: [], filter: [] };
  const deleted: Record<Table, string[]> = { mangle: [], nat: [], filter: [] };
  for (const hook of hooks(family)) {
    const { table } = hook.to;
    const key = chainKey({ table, name: hook.from });
    const rules = builtin.get(key) ?? saved.others.get(key) ?? [];
    const moved = hookLines(hook, rules, wanted.has(chainKey(hook.to)));
    lines[table].push(...moved.lines);
    builtin.set(key, moved.rules);
  }
  for (const key of touched) {
    const { table, name } = chainOf(key);
    const rules = wanted.get(key);
    const there = saved.own.get(key);
    if (rules && !there) declared[table].push(`:${name} - [0:0]`);
    if (rules) lines[table].push(...chainLines(key, there ?? [], rules));
    if (there && !rules) deleted[table].push(name);
    own.set(key, rules && [...rules]);
  }
  return {
    text: TABLES.map((table) =>
      // A chain that goes is emptied first, since it may jump to another that goes as well.
      section(table, [
        ...declared[table],
        ...lines[table],
        ...deleted[table].map((name) => `-F ${name}`),
        ...deleted[table].map((name) => `-X ${name}`),
      ]),
    ).join(""),
    done: () => {
      for (const [key, rules] of builtin) saved.others.set(key, rules);
      for (const [key, rules] of own)
        if (rules) saved.own.set(key, rules);
        else saved.own.delete(key);
    },
  };
}

/** What a transaction does, each in one line with its table: `mangle -A TSNET-TO …`. */
export function changesOf(text: string): string[] {
  let table = "";
  return text.split("\n").flatMap((line) => {
    if (line.startsWith("*")) table = line.slice(1);
    return /^[:-]/.test(line) ? [`${table} ${line}`] : [];
  });
}

function section(table: Table, lines: readonly string[]): string {
  return lines.length === 0 ? "" : `*${table}\n${lines.join("\n")}\nCOMMIT\n`;
}

/** Makes the rules of a chain exactly these. */
function chainLines(key: string, there: readonly string[], wanted: ReadonlySet<string>): string[] {
  const { name } = chainOf(key);
  if (ORDERED_CHAINS.has(key)) {
    if (there.join("\n") === [...wanted].join("\n")) return [];
    return [`-F ${name}`, ...[...wanted].map((spec) => `-A ${name} ${spec}`)];
  }
  const kept = new Set<string>();
  const surplus = there.filter((spec) => {
    // A rule that is there twice outlives its owner.
    if (!wanted.has(spec) || kept.has(spec)) return true;
    kept.add(spec);
    return false;
  });
  const lost = [...wanted].filter((spec) => !kept.has(spec));
  return [...surplus.map((spec) => `-D ${name} ${spec}`), ...lost.map((spec) => `-A ${name} ${spec}`)];
}

/** Puts a jump from a built-in chain where it must stand, once, or nowhere. */
function hookLines(
  hook: Hook,
  rules: readonly string[],
  needed: boolean,
): { lines: string[]; rules: readonly string[] } {
  if (needed ? stands(hook, rules) : !rules.includes(hook.spec)) return { lines: [], rules };
  const { from, spec, behind } = hook;
  const others = rules.filter((rule) => rule !== spec);
  const place = others.lastIndexOf(behind ?? "") + 1;
  return {
    lines: [
      ...rules.filter((rule) => rule === spec).map(() => `-D ${from} ${spec}`),
      ...(needed ? [`-I ${from} ${place + 1} ${spec}`] : []),
    ],
    rules: needed ? others.toSpliced(place, 0, spec) : others,
  };
}

function stands({ spec, behind }: Hook, rules: readonly string[]): boolean {
  const at = rules.indexOf(spec);
  if (at < 0 || rules.lastIndexOf(spec) !== at) return false;
  // Whoever comes before would decide in our place; the engine puts its own first with every network it makes.
  return behind === undefined ? at === 0 : rules.lastIndexOf(behind) < at;
}
