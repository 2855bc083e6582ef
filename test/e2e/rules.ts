import type { Place } from "./site.ts";

/**
 * Prints what iptables-save shows, each rule behind its table and without counters. Where the order matters, in
 * TSNET-ISOLATION, TSNET-POSTROUTING and for the jumps to tsnet's chains, a rule's number is shown too.
 */
const RULES = `rules() { { iptables-save; ip6tables-save | sed 's/^\\*/*6/'; } | awk '
  /^\\*/ { table = $0 }
  /^:/ { print table, $1 }
  /^-A/ {
    numbered = $2 ~ /^TSNET-(ISOLATION|POSTROUTING)$/ || ($2 !~ /^TSNET/ && /TSNET/ && table !~ /filter/)
    number[table, $2]++
    print table, $0 (numbered ? " #" number[table, $2] : "")
  }'; }`;

/** The rules of a host that are not tsnet's. */
export async function foreignRules(host: Place): Promise<string[]> {
  const { stdout } = await host.exec(["sh", "-c", `${RULES}\nrules | grep -v TSNET`]);
  return stdout.trim().split("\n");
}

/** How often a repair is looked for, and how long. */
const EVERY_S = "0.02";
const AT_MOST_MS = 5000;

/**
 * Damages the rules of a host with a shell script and waits until tsnet's own are as before.
 *
 * @returns milliseconds that took from the end of the script on
 */
export async function repairTime(host: Place, damage: string): Promise<number> {
  const script = `${RULES}
    own() { rules | grep TSNET | sort; }
    now() { date +%s%3N; }
    before=$(own)
    { ${damage}
    } || { echo 'the damage failed' >&2; exit 1; }
    start=$(now)
    until [ "$(own)" = "$before" ]; do
      if [ $(($(now) - start)) -gt ${String(AT_MOST_MS)} ]; then diff <(echo "$before") <(own) >&2; exit 1; fi
      sleep ${EVERY_S}
    done
    echo $(($(now) - start))`;
  return Number((await host.exec(["bash", "-c", script])).stdout);
}
