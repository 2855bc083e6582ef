/** The 6 bytes of a MAC address, `02:42:0a:01:00:02`. */
export function macBytes(mac: string): Buffer {
  return Buffer.from(mac.replaceAll(":", ""), "hex");
}

/** The text of a MAC address, lower case and colon-separated. */
export function formatMac(raw: Buffer): string {
  let mac = "";
  for (const byte of raw) mac += `${mac && ":"}${HEX[byte]}`;
  return mac;
}

const HEX = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, "0"));

/** Whether it is a group's: the lowest bit of the first byte says so (IEEE 802, the I/G bit). */
export function isMulticast(mac: string): boolean {
  return ((macBytes(mac)[0] ?? 0) & 1) === 1;
}

/**
 * Whether it is neither a group's nor nobody's, so that the kernel gives it to a link (linux/etherdevice.h,
 * is_valid_ether_addr).
 */
export function isOfOneLink(mac: string): boolean {
  return !isMulticast(mac) && macBytes(mac).some((byte) => byte !== 0);
}
