/** What one family's iptables-save says that matters to tsnet: the rules of each chain in order, by `table CHAIN`. */
export interface Saved {
  /** tsnet's own chains. */
  readonly own: Map<string, readonly string[]>;
  /** Everybody else's chains that have rules. */
  readonly others: Map<string, readonly string[]>;
}

const OWN_CHAIN = "TSNET-";

/** Reads iptables-save's text (iptables-save(8)). */
export function parseSaved(text: string): Saved {
  const own = new Map<string, string[]>();
  const others = new Map<string, string[]>();
  let table = "";
  for (const line of text.split("\n")) {
    if (line.startsWith("*")) table = line.slice(1).trim();
    else if (line.startsWith(`:${OWN_CHAIN}`))
      own.set(`${table} ${line.slice(1).split(" ", 1)[0] ?? ""}`, []);
    else if (line.startsWith("-A ")) {
      const [, chain = "", spec = ""] = /^-A (\S+) (.*)$/.exec(line) ?? [];
      const chains = chain.startsWith(OWN_CHAIN) ? own : others;
      const key = `${table} ${chain}`;
      const rules = chains.get(key);
      if (rules) rules.push(spec);
      else chains.set(key, [spec]);
    }
  }
  return { own, others };
}
