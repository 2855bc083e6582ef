import { isIPv4 } from "node:net";
import ip6addr from "ip6addr";
import { InvalidError } from "./errors.ts";
import { macBytes } from "./mac.ts";

export type Family = 4 | 6;

/** Both, in the order in which whatever is done for each is done. */
export const FAMILIES: readonly Family[] = [4, 6];

/** Loopback, which no packet from outside may name (RFC 1122, section 3.2.1.3; RFC 4291, section 2.5.3). */
export const LOOPBACK = { 4: "127.0.0.0/8", 6: "::1/128" } as const;

/** Addresses that mean nothing without their link (RFC 4291, section 2.5.6). */
export const LINK_LOCAL = "fe80::/10";

/** Bare: a listener's every address, and no sender's (RFC 1122, section 3.2.1.3; RFC 4291, section 2.5.2). */
export const UNSPECIFIED = { 4: "0.0.0.0", 6: "::" } as const;

/** The subnet that has every address. */
export const EVERYWHERE = { 4: "0.0.0.0/0", 6: "::/0" } as const;

/** Whether a subnet is that. The engine's null IPAM driver grants it, and then it has no address to give. */
export function isEverywhere(subnet: string): boolean {
  return subnet.endsWith("/0");
}

/** Whether a bare address is that of its family. */
export function isUnspecified(address: string): boolean {
  return address === UNSPECIFIED[4] || address === UNSPECIFIED[6];
}

/** An address with a prefix length. The address keeps its host part. */
export interface ParsedCidr {
  readonly family: Family;
  /** Bare, in its shortest form. */
  readonly address: string;
  /** Bits of the prefix. */
  readonly length: number;
}

/** Reads `10.1.2.3/16` or `fd00::1/64`. */
export const parseCidr = memoized((text: string): ParsedCidr => {
  const [address = "", length, ...rest] = text.split("/");
  if (!length || !/^\d{1,3}$/.test(length) || rest.length > 0)
    throw new InvalidError(`"${text}" is not an address with a prefix length, such as 10.1.2.3/24`);
  const ip = parseIp(address);
  const bits = Number(length);
  if (bits > (ip.family === 4 ? 32 : 128))
    throw new InvalidError(`"${text}": prefix length ${length} is out of range`);
  return { length: bits, ...ip };
});

/** Reads a bare address. IPv4 mapped into IPv6 is IPv6, as it is on the wire. */
export function parseIp(text: string): { family: Family; address: string } {
  const { family, address } = read(text);
  return { family, address };
}

/** Whether the text is a bare IP address. */
export function isIp(text: string): boolean {
  try {
    parseIp(text);
    return true;
  } catch {
    return false;
  }
}

/** The network address of a CIDR, with its length: `10.1.0.0/16` of `10.1.2.3/16`. */
export function subnetOf(cidr: string): string {
  const { family, address, length } = parseCidr(cidr);
  return `${written(family, ip6addr.createCIDR(address, length).address())}/${length}`;
}

/** The address part of a CIDR. */
export function bare(cidr: string): string {
  return parseCidr(cidr).address;
}

/** Another bare address beside that of a CIDR: in the same subnet, if that has more than two. */
export function neighbourOf(cidr: string): string {
  const raw = Buffer.from(ipBytes(bare(cidr)));
  raw[raw.length - 1] = (raw.at(-1) ?? 0) ^ 2;
  return formatIp(raw);
}

/**
 * The bare address that a link of that MAC gives itself in a subnet that a router announces (RFC 4862, section 5.5.3;
 * the interface identifier is that of RFC 4291, appendix A); undefined if it is none of 64 bits, where it does not.
 *
 * @param mac colon-separated
 */
export function autoconfigured(subnet: string, mac: string): string | undefined {
  const { family, address, length } = parseCidr(subnet);
  if (family !== 6 || length !== 64) return undefined;
  const id = macBytes(mac);
  // The bit that says whether the MAC is the maker's is the other way round.
  id[0] = (id[0] ?? 0) ^ 2;
  const middle = Buffer.from([0xff, 0xfe]);
  return formatIp(
    Buffer.concat([ipBytes(address).subarray(0, 8), id.subarray(0, 3), middle, id.subarray(3)]),
  );
}

/** The subnet that is a bare address alone, as a route to one host has it. */
export function hostSubnet(address: string): string {
  return `${address}/${parseIp(address).family === 4 ? "32" : "128"}`;
}

/** Whether a bare address lies in a subnet. */
export function contains(subnet: string, address: string): boolean {
  return within(subnet)(rawIp(address));
}

/** Tells whether addresses lie in a subnet, of which there may be hundreds of thousands. */
export function within(subnet: string): (address: RawIp) => boolean {
  const { address, length } = parseCidr(subnet);
  const network = rawIp(address);
  const whole = length >> 3;
  const rest = 8 - (length & 7);
  const start = network.slice(0, whole);
  return (one) =>
    one.length === network.length &&
    one.startsWith(start) &&
    (rest === 8 || one.charCodeAt(whole) >> rest === network.charCodeAt(whole) >> rest);
}

/** Whether a bare address means nothing without its link. */
export function isLinkLocal(address: string): boolean {
  return contains(LINK_LOCAL, address);
}

/** Whether two subnets share an address. */
export function overlaps(a: string, b: string): boolean {
  const wider = parseCidr(a).length <= parseCidr(b).length ? a : b;
  return contains(wider, bare(wider === a ? b : a));
}

/** A bare address as it stands before a port: `[fd00::1]` (RFC 3986, section 3.2.2). */
export function bracketed(address: string): string {
  return address.includes(":") ? `[${address}]` : address;
}

/** An address as the kernel has it, a character for each byte: two are equal if their texts are. */
export type RawIp = string;

const RAW = "latin1";

/** That of 4 or 16 bytes, network order. */
export function rawIpOf(bytes: Buffer): RawIp {
  return bytes.toString(RAW);
}

/** That of a bare address. */
export function rawIp(address: string): RawIp {
  return rawIpOf(ipBytes(address));
}

/** The bare address of it. */
export function formatRawIp(raw: RawIp): string {
  return formatIp(Buffer.from(raw, RAW));
}

/** The 4 or 16 bytes of a bare address, network order. */
export function ipBytes(address: string): Buffer {
  return read(address).bytes;
}

/** The shortest text of 4 or 16 bytes. */
export function formatIp(raw: Buffer): string {
  if (raw.length === 4) return [...raw].join(".");
  const groups = raw.toString("hex").match(/.{4}/g) ?? [];
  return parseIp(groups.join(":")).address;
}

interface Ip {
  readonly family: Family;
  readonly address: string;
  readonly bytes: Buffer;
}

const MOST_REMEMBERED = 10_000;

/**
 * Reads each text once: the same ones come again and again, the host's routes with each network, and the package takes
 * 20 µs for an address.
 */
function memoized<T>(parse: (text: string) => T): (text: string) => T {
  const known = new Map<string, T>();
  return (text) => {
    const before = known.get(text);
    if (before !== undefined) return before;
    if (known.size >= MOST_REMEMBERED) known.clear();
    const value = parse(text);
    known.set(text, value);
    return value;
  };
}

const read = memoized(parse);

const ALL_DIGITS = { format: "v6", zeroElide: false, zeroPad: true } as const;

function parse(text: string): Ip {
  // Go's parser, too, takes no zero before a number; the package does.
  if (isIPv4(text)) return { family: 4, address: text, bytes: Buffer.from(text.split(".").map(Number)) };
  try {
    if (!text.includes(":")) throw new Error("not four numbers");
    const ip = ip6addr.parse(text);
    // Not its toBuffer(): Node looks at the stack each time that a package calls the old constructor, for 30 µs.
    const bytes = Buffer.from(ip.toString(ALL_DIGITS).replaceAll(":", ""), "hex");
    return { family: 6, address: written(6, ip), bytes };
  } catch (cause) {
    throw new InvalidError(`"${text}" is not an IP address`, { cause });
  }
}

/**
 * As iptables-save prints it, since rules are compared by their text: a single group of zeros stays
 * (RFC 5952, section 4.2.2), which the package leaves out too.
 */
function written(family: Family, ip: ReturnType<typeof ip6addr.parse>): string {
  if (family === 4) return ip.toString({ format: "v4" });
  const groups = ip.toString({ format: "v6", zeroElide: false });
  return /\b0:0\b/.test(groups) ? ip.toString({ format: "v6" }) : groups;
}
