import type { Logger } from "pino";
import { reason } from "../../errors.ts";
import type { Step } from "../../step.ts";
import type { BusMessage, MethodCall } from "./dbus-message.ts";
import { SystemBus } from "./system-bus.ts";

/** The zone that tsnet's bridges are in, and the policy by which the outside gets there. */
const ZONE = "tsnet";
const POLICY = "tsnet-forwarding";

/** Milliseconds that a request waits for firewalld, once; from then on it works beside the requests. */
const PATIENCE_MS = 1000;
/** Milliseconds that a repair of the rules waits: nobody asked for it, and a reload can take that long. */
const RELOAD_MS = 3000;
/** Milliseconds until a bus is looked for again where there was none: tsnet may be started before it. */
const RETRY_MS = 5000;

const NAME = "org.fedoraproject.FirewallD1";
const PATH = "/org/fedoraproject/FirewallD1";

/** What firewalld offers on the bus (firewalld.dbus(5)). */
const METHODS = {
  reload: call(PATH, NAME, "reload"),
  zones: call(PATH, `${NAME}.zone`, "getZones"),
  policies: call(PATH, `${NAME}.policy`, "getPolicies"),
  interfaces: call(PATH, `${NAME}.zone`, "getInterfaces"),
  zoneOf: call(PATH, `${NAME}.zone`, "getZoneOfInterface"),
  changeZone: call(PATH, `${NAME}.zone`, "changeZoneOfInterface"),
  removeInterface: call(PATH, `${NAME}.zone`, "removeInterface"),
  storedZones: call(`${PATH}/config`, `${NAME}.config`, "getZoneNames"),
  storedPolicies: call(`${PATH}/config`, `${NAME}.config`, "getPolicyNames"),
  addZone: call(`${PATH}/config`, `${NAME}.config`, "addZone2"),
  addPolicy: call(`${PATH}/config`, `${NAME}.config`, "addPolicy"),
} as const;

/**
 * firewalld, where it runs. It has a table of its own, which rejects whatever no zone accepts, and no rule of
 * tsnet's can accept a packet in another's place. So tsnet's bridges are in a zone of their own that accepts all:
 * what may pass is decided by tsnet's rules, which drop.
 *
 * firewalld forgets the bridges when it is restarted, and flushes everybody's rules when it is reloaded, if it works
 * with iptables: both are heard on the bus, and the bridges are put back. Zone and policy stay when tsnet goes.
 */
export class Firewalld {
  readonly #log: Logger;
  readonly #path: string;
  /** Bridges by name, and whether a user's own zone for one counts more. */
  readonly #wanted = new Map<string, { readonly adopted: boolean }>();
  readonly #unwanted = new Set<string>();
  /** Bridges that are in the zone; undefined while that is not known. */
  #there: ReadonlySet<string> | undefined;
  #bus: SystemBus | undefined;
  /** Nobody answered in time: no request waits until somebody has. */
  #silent = false;
  #reloaded = false;
  #settling: Promise<unknown> = Promise.resolve();
  #queued: Promise<readonly string[]> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  /** @param path of the system bus's socket */
  constructor(log: Logger, path: string) {
    this.#log = log;
    this.#path = path;
    void this.#connect();
  }

  /**
   * A bridge is in the zone, if there is firewalld. Nothing waits for it longer than a second.
   *
   * @param adopted the bridge is somebody else's: it stays in a zone that it was given
   */
  bridge(name: string, adopted: boolean): Step {
    return {
      what: `firewalld zone ${ZONE} interface ${name}`,
      apply: async () => {
        this.#wanted.set(name, { adopted });
        this.#unwanted.delete(name);
        if (this.#there?.has(name)) return false;
        return (await this.#soon()).includes(name);
      },
      revert: async () => {
        this.#wanted.delete(name);
        if (!this.#bus) return;
        this.#unwanted.add(name);
        await this.#soon();
      },
    };
  }

  /**
   * Resolves once firewalld has finished what it is doing: it does one thing at a time, so it answers only then. A
   * change to the rules in the middle of its reload can make the reload fail, if it works with iptables: two of eight
   * did, in its ebtables-restore (1.8.9).
   */
  async idle(): Promise<void> {
    await this.#soon(RELOAD_MS);
  }

  /** Leaves the bus. */
  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#bus?.close();
  }

  async #connect(): Promise<void> {
    let bus: SystemBus | undefined;
    try {
      bus = await SystemBus.connect(this.#path);
      if (this.#closed) {
        bus.close();
        return;
      }
      this.#bus = bus;
      bus.onSignal = (signal) => {
        this.#onSignal(signal);
      };
      await bus.listen(NAME);
      void this.#settle();
      await bus.closed;
    } catch {
      // There is none, and most machines never have one; or it has no room for what was asked of it.
    }
    bus?.close();
    this.#bus = undefined;
    this.#there = undefined;
    if (this.#closed) return;
    this.#timer = setTimeout(() => void this.#connect(), RETRY_MS).unref();
  }

  #onSignal({ member, body: [zone, name] }: BusMessage): void {
    if (member === "NameOwnerChanged") this.#reloaded = false;
    else if (member !== "Reloaded") {
      // Somebody took a bridge out of the zone; putting it in is told in the same way.
      const taken = member === "InterfaceRemoved" || zone !== ZONE;
      if (!taken || typeof name !== "string" || !this.#wanted.has(name)) return;
    }
    this.#there = undefined;
    void this.#settle();
  }

  /** Settles, but is waited for no longer than a request can wait. @returns the bridges that were put into the zone */
  async #soon(patienceMs = PATIENCE_MS): Promise<readonly string[]> {
    const settled = this.#settle();
    if (!this.#bus || this.#silent) return [];
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<readonly string[]>((resolve) => {
      timer = setTimeout(() => {
        this.#silent = true;
        this.#log.warn({ waitedMs: patienceMs }, "firewalld does not answer; going on without it");
        resolve([]);
      }, patienceMs);
    });
    const added = await Promise.race([settled, late]);
    clearTimeout(timer);
    return added;
  }

  /** Puts the zone right, one time after the other; calls that come meanwhile share the next time. */
  #settle(): Promise<readonly string[]> {
    this.#queued ??= this.#settling.then(async () => {
      this.#queued = undefined;
      const bus = this.#bus;
      if (!bus) return [];
      try {
        return await this.#put(bus);
      } catch (error) {
        this.#there = undefined;
        this.#log.warn({ reason: reason(error) }, "firewalld does not take tsnet's bridges; will try again");
        return [];
      } finally {
        this.#silent = false;
      }
    });
    this.#settling = this.#queued;
    return this.#queued;
  }

  async #put(bus: SystemBus): Promise<readonly string[]> {
    if (!(await bus.hasOwner(NAME))) {
      // Without firewalld every bridge is where it should be.
      this.#there = new Set(this.#wanted.keys());
      this.#unwanted.clear();
      return [];
    }
    await this.#zone(bus);
    const [listed] = await bus.call(METHODS.interfaces, ZONE);
    const there = new Set(Array.isArray(listed) ? (listed as string[]) : []);
    const added: string[] = [];
    for (const [name, { adopted }] of this.#wanted) {
      if (there.has(name) || (adopted && (await bus.call(METHODS.zoneOf, name))[0])) continue;
      await bus.call(METHODS.changeZone, ZONE, name);
      added.push(name);
    }
    const gone = [...this.#unwanted].filter((name) => there.has(name));
    for (const name of gone) await bus.call(METHODS.removeInterface, ZONE, name);
    for (const name of gone) this.#unwanted.delete(name);
    // One that stays in another zone is where it should be as well.
    this.#there = new Set(this.#wanted.keys());
    if (added.length > 0) this.#log.debug({ zone: ZONE, bridges: added }, "put into firewalld's zone");
    return added;
  }

  /** Makes zone and policy where they are not yet. firewalld takes them into service only when it is reloaded. */
  async #zone(bus: SystemBus): Promise<void> {
    const has = async (list: MethodCall, name: string) => {
      const [names] = await bus.call(list);
      return Array.isArray(names) && names.includes(name);
    };
    if (this.#reloaded || ((await has(METHODS.zones, ZONE)) && (await has(METHODS.policies, POLICY)))) return;
    if (!(await has(METHODS.storedZones, ZONE)))
      await bus.call(METHODS.addZone, ZONE, {
        short: ZONE,
        description: "Bridges of tsnet's container networks; tsnet's own rules say what may pass.",
        target: "ACCEPT",
      });
    if (!(await has(METHODS.storedPolicies, POLICY)))
      await bus.call(METHODS.addPolicy, POLICY, {
        short: POLICY,
        description: "Whatever goes to tsnet's container networks; tsnet's own rules say what may pass.",
        ingress_zones: ["ANY"],
        egress_zones: [ZONE],
        target: "ACCEPT",
      });
    this.#reloaded = true;
    this.#log.info({ zone: ZONE, policy: POLICY }, "made in firewalld, which is reloaded to use them");
    await bus.call(METHODS.reload);
  }
}

function call(path: string, face: string, member: string): MethodCall {
  return { destination: NAME, path, interface: face, member };
}
