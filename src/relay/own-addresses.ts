import { readFileSync } from "node:fs";
import { type NetworkInterfaceInfo, networkInterfaces } from "node:os";
import { type Family, LOOPBACK, contains, formatIp } from "../ip.ts";
import { isBridgeName } from "../names.ts";

/** Milliseconds between two looks at which addresses the host has. */
const LOOK_AGAIN_MS = 1000;

/** An address of the host's. */
type OwnAddress = NetworkInterfaceInfo & { readonly link: string };

/** The addresses that the host has. */
export class OwnAddresses {
  readonly #reached = new Glance<readonly OwnAddress[]>([], reachedAddresses);
  readonly #ipv6 = new Glance<ReadonlySet<string>>(new Set(), ipv6Addresses);

  /** Those of links that are up and have a carrier: elsewhere nobody asks. The same array while it is not looked again. */
  reached(): readonly OwnAddress[] {
    return this.#reached.value;
  }

  /**
   * Whether packets in that one's name can be the host's own. Of IPv4 the kernel takes none from outside (martian
   * sources, ip_route_input_slow).
   *
   * @param address perhaps with a zone
   */
  has(address: string): boolean {
    const [bare = ""] = address.split("%");
    return this.#ipv6.value.has(bare) || this.reached().some((own) => own.address === bare);
  }
}

/** What is looked at once a second, whoever wants to know it; as it was where no descriptor is left to look with. */
class Glance<T> {
  readonly #look: () => T;
  #at = -Infinity;
  #value: T;

  constructor(first: T, look: () => T) {
    this.#value = first;
    this.#look = look;
  }

  get value(): T {
    const now = performance.now();
    if (now - this.#at < LOOK_AGAIN_MS) return this.#value;
    this.#at = now;
    try {
      this.#value = this.#look();
    } catch {
      // It is looked at again in a second.
    }
    return this.#value;
  }
}

/** With a thousand links that takes 20 ms. */
function reachedAddresses(): OwnAddress[] {
  return Object.entries(networkInterfaces()).flatMap(([link, addresses = []]) =>
    addresses.map((one) => ({ ...one, link })),
  );
}

/** Of every link, whatever its state: 32 hex digits at the beginning of each line. */
function ipv6Addresses(): Set<string> {
  const lines = readFileSync("/proc/net/if_inet6", "utf8").trim().split("\n");
  return new Set(lines.map((line) => formatIp(Buffer.from(line.slice(0, 32), "hex"))));
}

/** Those of a family at which it matters which one answers: not on tsnet's bridges, whose own clients are answered right. */
export function clientsAsk(all: readonly OwnAddress[], family: Family): string[] {
  return all
    .filter((one) => one.family === `IPv${family}` && !one.scopeid && !isBridgeName(one.link))
    .map(({ address }) => address)
    .filter((address) => !contains(LOOPBACK[family], address));
}
