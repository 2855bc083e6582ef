import { ipBytes, parseIp } from "../ip.ts";
import { macBytes } from "../mac.ts";
import { SOCK, close, failure, sendTo, socket } from "./libc.ts";
import { inNetns } from "./netns.ts";

const AF_PACKET = 17;
const ETH_P = { 4: 0x0806, 6: 0x86dd } as const;
const SOCKADDR_LL = 20;
const BROADCAST = "ffffffffffff";
/** MAC of ff02::1, all nodes (RFC 2464, section 7). */
const ALL_NODES_MAC = "333300000001";
const ALL_NODES = ipBytes("ff02::1");
const ICMPV6 = 58;
const NEIGHBOUR_ADVERTISEMENT = 136;
const OVERRIDE = 0x20;
const TARGET_LINK_ADDRESS = 2;

/**
 * Tells everybody on a link's wire that it has these addresses, so that switches and neighbours forget who had
 * them before: an ARP announcement (RFC 5227, section 3) or an unsolicited neighbour advertisement (RFC 4861,
 * section 7.2.6) each.
 *
 * @param netns open descriptor of the namespace the link is in
 * @param addresses bare
 * @throws {KernelError} ENETDOWN, if the link is down
 */
export function announce(
  netns: number,
  link: { readonly index: number; readonly mac: string },
  addresses: readonly string[],
): void {
  // Protocol 0: it receives nothing.
  const fd = inNetns(netns, () => socket(AF_PACKET, SOCK.DGRAM, 0));
  if (fd < 0) throw failure("socket AF_PACKET");
  try {
    for (const address of addresses) {
      const { family } = parseIp(address);
      const packet =
        family === 4 ? arpAnnouncement(link.mac, address) : neighbourAdvertisement(link.mac, address);
      const to = sockaddr(link.index, ETH_P[family], family === 4 ? BROADCAST : ALL_NODES_MAC);
      if (sendTo(fd, packet, packet.length, 0, to, to.length) < 0) throw failure(`announce ${address}`);
    }
  } finally {
    close(fd);
  }
}

/** The ARP packet without its Ethernet header. */
export function arpAnnouncement(mac: string, address: string): Buffer {
  const ip = ipBytes(address);
  // Ethernet (1), IPv4 (0x0800), lengths 6 and 4, request (1); the target's MAC is not known.
  const head = Buffer.from("0001080006040001", "hex");
  return Buffer.concat([head, macBytes(mac), ip, Buffer.alloc(6), ip]);
}

/** The IPv6 packet without its Ethernet header. */
export function neighbourAdvertisement(mac: string, address: string): Buffer {
  const ip = ipBytes(address);
  const icmp = Buffer.concat([
    Buffer.from([NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0]),
    ip,
    Buffer.from([TARGET_LINK_ADDRESS, 1]),
    macBytes(mac),
  ]);
  const pseudo = Buffer.concat([ip, ALL_NODES, Buffer.from([0, 0, 0, icmp.length, 0, 0, 0, ICMPV6])]);
  icmp.writeUInt16BE(checksum(Buffer.concat([pseudo, icmp])), 2);
  // Version 6; the hop limit of 255 shows that no router has passed it on.
  const head = Buffer.from([0x60, 0, 0, 0, 0, icmp.length, ICMPV6, 255]);
  return Buffer.concat([head, ip, ALL_NODES, icmp]);
}

/** The Internet checksum (RFC 1071) of an even number of bytes. */
function checksum(data: Buffer): number {
  let sum = 0;
  for (let offset = 0; offset < data.length; offset += 2) sum += data.readUInt16BE(offset);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}

/** struct sockaddr_ll, packet(7). */
function sockaddr(index: number, protocol: number, mac: string): Buffer {
  const out = Buffer.alloc(SOCKADDR_LL);
  out.writeUInt16LE(AF_PACKET, 0);
  out.writeUInt16BE(protocol, 2);
  out.writeInt32LE(index, 4);
  out.writeUInt8(6, 11);
  out.write(mac, 12, "hex");
  return out;
}
