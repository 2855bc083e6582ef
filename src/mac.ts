/** The 6 bytes of a MAC address, `02:42:0a:01:00:02`. */
export function macBytes(mac: string): Buffer {
  return Buffer.from(mac.replaceAll(":", ""), "hex");
}

/** The text of a MAC address, lower case and colon-separated. */
export function formatMac(raw: Buffer): string {
  return raw.toString("hex").replace(/..(?!$)/g, "$&:");
}
