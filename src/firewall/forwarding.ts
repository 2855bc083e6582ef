import { readdirSync } from "node:fs";
import { FAMILIES, type Family } from "../ip.ts";
import type { Iptables } from "../kernel/iptables/iptables.ts";
import { readSysctl, writeSysctl } from "../kernel/sysctl.ts";
import { KeyedLock } from "../lock.ts";
import { isOwnName } from "../names.ts";
import type { Step } from "../step.ts";

const SETTING = { 4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding" } as const;

/** Whether the host forwards packets, and what becomes of those that nobody's rules are about. */
export class Forwarding {
  /** The policy for IPv6 was set before there was an engine that could tell whether it bears it. */
  #early = false;
  /** Families whose policy was set here. */
  readonly #closed = new Set<Family>();
  readonly #oneAtATime = new KeyedLock();
  readonly #iptables: Readonly<Record<Family, Iptables>>;

  constructor(iptables: Readonly<Record<Family, Iptables>>) {
    this.#iptables = iptables;
  }

  /**
   * The host forwards packets. Where it did not before, it must not become a router for its neighbours by the
   * way: the FORWARD policy is then set to DROP first, as the engine does when it turns forwarding on. An engine
   * that is started later finds it on, and sets no policy any more. Neither is taken back, since the engine
   * relies on both as well.
   */
  step(family: Family): Step {
    const name = SETTING[family];
    return {
      what: `sysctl ${name}=1`,
      setting: name,
      // Every network needs it, and only the first that finds it off turns it on.
      apply: () => this.#oneAtATime.run(name, () => this.#turnOn(family, name)),
      revert: () => Promise.resolve(),
    };
  }

  /**
   * An engine answers, so all its rules are there. If it turns out to be one that leaves IPv6 alone, it gets back the
   * policy that it counts on; a daemon that was restarted meanwhile no longer knows, and leaves the host closed.
   */
  async onEngine(): Promise<void> {
    if (!this.#early) return;
    if ((await this.#engine()) === "leaves IPv6 alone") {
      await this.#setPolicy(6, "ACCEPT");
      this.#closed.delete(6);
    }
    this.#early = false;
  }

  /**
   * Somebody has taken all of a family's rules away, as `nft flush ruleset` does, and with them its policy. One that is
   * opened by itself stays open: that was meant.
   *
   * @returns what was put right, as iptables says it
   */
  async closeAgain(family: Family): Promise<string[]> {
    return this.#closed.has(family) && (await this.#close(family)) ? ["filter -P FORWARD DROP"] : [];
  }

  async #turnOn(family: Family, name: string): Promise<boolean> {
    if (readSysctl(name) !== "0") return false;
    const there = family === 6 ? await this.#engine() : undefined;
    const closes = there !== "leaves IPv6 alone" && (await this.#close(family));
    if (closes) this.#closed.add(family);
    // Only a policy that was set here is given back.
    if (closes && there === "never ran") this.#early = true;
    if (family === 6) goOnHearingRouters();
    writeSysctl(name, "1");
    return true;
  }

  /**
   * What the engine's rules tell of it. One before 27 leaves ip6tables alone by default: it opens IPv6 without a
   * policy, and has no rules that would accept its own containers' packets under one.
   */
  async #engine(): Promise<"never ran" | "leaves IPv6 alone" | "keeps both"> {
    const [v4, v6] = await Promise.all(
      FAMILIES.map(async (family) => (await this.#iptables[family].save()).includes(":DOCKER")),
    );
    if (v6) return "keeps both";
    return v4 ? "leaves IPv6 alone" : "never ran";
  }

  /** Sets the policy to DROP. Resolves to false if it was that already. */
  async #close(family: Family): Promise<boolean> {
    const saved = await this.#iptables[family].save();
    if (saved.includes(":FORWARD DROP ", saved.indexOf("*filter"))) return false;
    await this.#setPolicy(family, "DROP");
    return true;
  }

  async #setPolicy(family: Family, target: "ACCEPT" | "DROP"): Promise<void> {
    await this.#iptables[family].restore(`*filter\n:FORWARD ${target} [0:0]\nCOMMIT\n`);
  }
}

/**
 * A host that forwards IPv6 forgets the routers that it has heard of, its own way out among them, and hears no other,
 * but on links where it is told to nevertheless (accept_ra=2, networking/ip-sysctl.rst of the kernel's documentation).
 */
function goOnHearingRouters(): void {
  for (const link of readdirSync("/proc/sys/net/ipv6/conf")) {
    const name = `net/ipv6/conf/${link}/accept_ra`;
    // "all" and "default" are no links, and behind the loopback and links of tsnet's there is no router.
    if (["all", "default", "lo"].includes(link) || isOwnName(link) || readSysctl(name) !== "1") continue;
    writeSysctl(name, "2");
  }
}
