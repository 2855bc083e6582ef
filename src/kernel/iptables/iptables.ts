import { KernelError } from "../../errors.ts";
import type { Family } from "../../ip.ts";
import { Conversation } from "./conversation.ts";
import { chainsOf } from "./nft.ts";

/** Seconds to wait for another program that holds the lock (`-w`, iptables(8)). */
const WAIT_SECONDS = "10";
/** A comment, which iptables-restore repeats when verbose: everything before it has been committed. */
const DONE = "# done";

const PREFIX = { 4: "iptables", 6: "ip6tables" } as const;

/** What iptables-save prints in place of a table that has a rule which only nft can show. */
const UNREADABLE = /^# Table `(\w+)' is incompatible, use 'nft' tool\.$/gm;
/** What it says when it ends at a rule of nft's, such as `meta skuid 1000`: it has said nothing of what is behind. */
const UNPARSABLE = "Parsing nftables rule failed";
/** What needs no quotes among others' names. */
const PLAIN = /^[\w.-]+$/;

/**
 * iptables of one address family, whichever variant (nf_tables or legacy) the host's `iptables` is:
 * the engine takes the same one.
 *
 * One iptables-restore stays. Besides the time to start it, this saves the kernel's grace period: a process that
 * deleted an nf_tables rule waits 18 ms for it when it closes its socket (Linux 6.18), although the rule is gone at
 * the commit. A transaction takes 0.5 to 2 ms.
 */
export class Iptables {
  readonly #restore: Conversation;
  readonly #shell = new Conversation("sh", ["sh"], DONE);
  readonly #family: Family;
  readonly #needed: Readonly<Record<string, readonly string[]>>;
  readonly #save: string;

  /** @param needed built-in chains by table: these must be read, whatever cannot be of the others */
  constructor(family: Family, needed: Readonly<Record<string, readonly string[]>>) {
    this.#family = family;
    this.#needed = needed;
    const program = `${PREFIX[family]}-restore`;
    // A pipe makes a program keep its output until a buffer is full; stdbuf(1) has it written line by line.
    const command = ["stdbuf", "-oL", program, "--noflush", "--verbose", "-w", WAIT_SECONDS] as const;
    this.#restore = new Conversation(program, command, DONE);
    this.#save = `${PREFIX[family]}-save`;
  }

  /**
   * Runs one transaction per table that the text names.
   *
   * @param text in iptables-save's format. A user chain that it declares is emptied if it exists
   * @throws {KernelError} with the program's own complaint; the table whose COMMIT failed is unchanged
   */
  async restore(text: string): Promise<void> {
    await this.#restore.ask(`${text}${DONE}\n`);
  }

  /**
   * All rules of all tables in use, in iptables-save's format. Of a table that has rules of nft's own in it, as some
   * VPNs put them there, iptables-save shows nothing, or it ends in the midst of it, but every chain without one can be
   * read by itself.
   *
   * @throws {KernelError} also where a chain that is needed has such a rule: what is before and behind it cannot be
   *   told
   */
  async save(): Promise<string> {
    // Not with its complaints: nf_tables' warns of legacy tables in the midst of a line, since the output is buffered.
    const { text, status } = await this.#run(`${this.#save} 2>/dev/null`);
    if (status === "0") return await this.#complete(text);
    const complaint = (await this.#run(`${this.#save} 2>&1 >/dev/null`)).text.trim();
    if (complaint.includes(UNPARSABLE)) return await this.#tableByTable();
    throw new KernelError(this.#save, "", complaint || `exit status ${status}`);
  }

  async #tableByTable(): Promise<string> {
    let saved = "";
    for (const table of Object.keys(this.#needed)) {
      const { text, status } = await this.#run(`${this.#save} -t ${table} 2>/dev/null`);
      saved += status === "0" ? await this.#complete(text) : await this.#chainByChain(table);
    }
    return saved;
  }

  /** Adds the tables that iptables-save says it cannot show. */
  async #complete(text: string): Promise<string> {
    let saved = text;
    for (const [, table = ""] of text.matchAll(UNREADABLE)) saved += await this.#chainByChain(table);
    return saved;
  }

  async #chainByChain(table: string): Promise<string> {
    const lines = [`*${table}`];
    for (const chain of (await chainsOf(this.#family, table)).filter((name) => PLAIN.test(name))) {
      const command = `${PREFIX[this.#family]} -w ${WAIT_SECONDS} -t ${table} -S ${chain}`;
      const { text, status } = await this.#run(`${command} 2>/dev/null`);
      if (status === "0")
        lines.push(
          text
            .replace(/^-P (\S+) (\S+)$/m, ":$1 $2 [0:0]")
            .replace(/^-N (\S+)$/m, ":$1 - [0:0]")
            .trimEnd(),
        );
      else if (this.#needed[table]?.includes(chain))
        throw new KernelError(
          command,
          "",
          "the chain has a rule that only nft can read; move that to a table of its own",
        );
    }
    return `${lines.join("\n")}\nCOMMIT\n`;
  }

  async #run(command: string): Promise<{ text: string; status: string }> {
    const answer = await this.#shell.ask(`${command}; echo "# status $?"; echo "${DONE}"\n`);
    const [, text = "", status = "unknown"] = /^([^]*)# status (\d+)\n$/.exec(answer) ?? [];
    return { text, status };
  }

  /** The process whose changes are tsnet's own; undefined while there is none. */
  get pid(): number | undefined {
    return this.#restore.pid;
  }

  /** Ends the processes. */
  close(): void {
    this.#restore.close();
    this.#shell.close();
  }
}
