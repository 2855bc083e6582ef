import { InvalidError, TsnetError } from "../errors.ts";
import { FAMILIES, type Family } from "../ip.ts";
import { kernelHasIpv6 } from "../kernel/sysctl.ts";
import type { Network } from "../model.ts";

/** What every link that carries IPv6 must pass on in one piece, bytes (RFC 8200, section 5). */
const IPV6_MTU = 1280;

/**
 * Families that a bridge network may have rules in. Only on a bridge of the host's are there any for IPv6 where the
 * network has none, so only then does it matter whether the kernel has it.
 */
export function ruleFamilies(adopted: boolean): readonly Family[] {
  return adopted && !kernelHasIpv6() ? [4] : FAMILIES;
}

/** The smallest MTU that the network's links may have, bytes. */
export function leastMtu({ ipv6 }: Network): number {
  return ipv6.length > 0 ? IPV6_MTU : 0;
}

/**
 * Refuses a network that is to have IPv6 where it cannot.
 *
 * @param mtus those that its links would have, by where they are from, as it is put before the number
 */
export function mustCarryIpv6({ ipv6 }: Network, mtus: Readonly<Record<string, number | undefined>>): void {
  if (ipv6.length === 0) return;
  if (!kernelHasIpv6())
    throw new TsnetError("unsupported", "this kernel has no IPv6 (ipv6.disable=1); leave out --ipv6");
  for (const [from, mtu] of Object.entries(mtus))
    if (mtu !== undefined && mtu < IPV6_MTU)
      throw new InvalidError(`${from} ${mtu}, but IPv6 needs at least ${IPV6_MTU} bytes (RFC 8200)`);
}
