import type { Family } from "../ip.ts";

/** The tables that have chains of tsnet's, in the order in which a change goes through them. */
export const TABLES = ["mangle", "nat", "filter"] as const;
export type Table = (typeof TABLES)[number];

/** A chain of tsnet's own, or the built-in one it hangs on. */
export interface Chain {
  readonly table: Table;
  readonly name: string;
}

/** One rule in one of tsnet's chains, as data. */
export interface Rule extends Chain {
  readonly family: Family;
  /** Matches and target exactly as iptables-save prints them, so that what is there can be compared. */
  readonly spec: string;
}

/** A rule within one family's tables. */
export type FamilyRule = Omit<Rule, "family">;

/** Makes a rule of one network and family, from its chain, match and target. */
export type MakeRule = (chain: Chain, match: string, target: string) => Rule;

/** Makes rules with their network's comment, by which {@link commentOf} tells whose they are. */
export function ruleMaker({
  family,
  comment,
}: {
  readonly family: Family;
  readonly comment: string;
}): MakeRule {
  return (chain, match, target) => ({
    family,
    spec: `${match} -m comment --comment ${comment} -j ${target}`,
    ...chain,
  });
}

/** A chain in two words, the same for equal chains: `mangle TSNET-TO`. */
export function chainKey({ table, name }: Chain): string {
  return `${table} ${name}`;
}

/** The chain of that key. */
export function chainOf(key: string): Chain {
  const [table = "", name = ""] = key.split(" ", 2);
  return { table: table as Table, name };
}

/** A rule in one line, the same for equal rules. */
export function ruleKey({ table, name, spec }: FamilyRule): string {
  return `${table} ${name} ${spec}`;
}

/**
 * The comment of the network that a rule belongs to; undefined for one that holds the chains together, or another's.
 */
export function commentOf(spec: string): string | undefined {
  return / --comment (tsnet-\S+)/.exec(spec)?.[1];
}
