import { type NetworkInterfaceInfo, networkInterfaces } from "node:os";
import { type Family, LOOPBACK, contains } from "../ip.ts";
import { isBridgeName } from "../names.ts";

/** Milliseconds between two looks at which addresses the host has. */
const LOOK_AGAIN_MS = 1000;

/** An address of the host's. */
type OwnAddress = NetworkInterfaceInfo & { readonly link: string };

/** The addresses that the host has. */
export class OwnAddresses {
  #seenAt = -Infinity;
  #seen: readonly OwnAddress[] = [];

  /**
   * All of them; none where no descriptor is left to ask with. Asked for once a second, whoever wants them: with a
   * thousand links that takes 20 ms. Until then the same array.
   */
  list(): readonly OwnAddress[] {
    const now = performance.now();
    if (now - this.#seenAt >= LOOK_AGAIN_MS) {
      this.#seenAt = now;
      this.#seen = everyAddress();
    }
    return this.#seen;
  }

  /** @param address perhaps with a zone */
  has(address: string): boolean {
    const [bare] = address.split("%");
    return this.list().some((own) => own.address === bare);
  }
}

function everyAddress(): OwnAddress[] {
  try {
    return Object.entries(networkInterfaces()).flatMap(([link, addresses = []]) =>
      addresses.map((one) => ({ ...one, link })),
    );
  } catch {
    return [];
  }
}

/** Those of a family at which it matters which one answers: not on tsnet's bridges, whose own clients are answered right. */
export function clientsAsk(all: readonly OwnAddress[], family: Family): string[] {
  return all
    .filter((one) => one.family === `IPv${family}` && !one.scopeid && !isBridgeName(one.link))
    .map(({ address }) => address)
    .filter((address) => !contains(LOOPBACK[family], address));
}
