import { ipBytes, parseIp } from "../../src/ip.ts";
import { run } from "../lab/command.ts";

const UDP = 17;

/** Address and port of one end of a datagram. */
export interface End {
  /** Bare. */
  readonly address: string;
  readonly port: number;
}

/**
 * Sends a datagram to a neighbour's MAC out of a container's eth0, whoever it says it is from.
 *
 * @param netns path of the container's namespace
 */
export async function sendForged(
  netns: string,
  mac: string,
  from: End,
  to: End,
  text: string,
): Promise<void> {
  const frame = Buffer.concat([
    bytesOf(mac),
    bytesOf("02:00:00:00:00:07"),
    packet(from, to, Buffer.from(text)),
  ]);
  await run(["nsenter", `--net=${netns}`, "perl", "-e", SEND, frame.toString("hex")]);
}

/** Writes a frame to eth0 (packet(7)). */
const SEND = `
  socket(my $socket, 17, 3, 0) or die $!;
  my $request = pack("a16 x24", "eth0");
  ioctl($socket, 0x8933, $request) or die $!; # SIOCGIFINDEX
  my $name = pack("S S i x12", 17, 0, unpack("x16 i", $request));
  send($socket, pack("H*", $ARGV[0]), 0, $name) or die $!;`;

/** An IP packet behind its EtherType (RFC 791, RFC 8200, RFC 768). */
function packet(from: End, to: End, text: Buffer): Buffer {
  const [source, destination] = [ipBytes(from.address), ipBytes(to.address)];
  const udp = Buffer.concat([Buffer.alloc(8), text]);
  udp.writeUInt16BE(from.port, 0);
  udp.writeUInt16BE(to.port, 2);
  udp.writeUInt16BE(udp.length, 4);
  const pseudo = Buffer.concat([source, destination, Buffer.from([0, UDP, 0, udp.length]), udp]);
  udp.writeUInt16BE(checksum(pseudo), 6);
  if (parseIp(from.address).family === 6) {
    const head = Buffer.from([0x86, 0xdd, 0x60, 0, 0, 0, 0, udp.length, UDP, 64]);
    return Buffer.concat([head, source, destination, udp]);
  }
  const head = Buffer.from([
    0x45,
    0,
    0,
    20 + udp.length,
    0,
    1,
    0,
    0,
    64,
    UDP,
    0,
    0,
    ...source,
    ...destination,
  ]);
  head.writeUInt16BE(checksum(head), 10);
  return Buffer.concat([Buffer.from([0x08, 0x00]), head, udp]);
}

/** RFC 1071. */
function checksum(bytes: Buffer): number {
  let sum = 0;
  for (let at = 0; at < bytes.length; at += 2) sum += (bytes[at] ?? 0) * 256 + (bytes[at + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
  return ~sum & 0xffff;
}

function bytesOf(mac: string): Buffer {
  return Buffer.from(mac.replaceAll(":", ""), "hex");
}
