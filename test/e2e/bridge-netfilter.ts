import type { Place } from "./site.ts";

const SETTINGS = ["net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables"];

/**
 * Does something while packets that a bridge passes on see the host's rules ("1"), or do not ("0"), in both
 * families. New network namespaces begin with "1".
 */
export async function withBridgeNetfilter(
  place: Place,
  value: "0" | "1",
  action: () => Promise<void>,
): Promise<void> {
  const were = (await place.exec(["sysctl", "-n", ...SETTINGS])).stdout.trim().split("\n");
  const set = (values: readonly string[]) =>
    place.exec(["sysctl", "-q", ...SETTINGS.map((name, index) => `${name}=${values[index] ?? ""}`)]);
  await set(SETTINGS.map(() => value));
  try {
    await action();
  } finally {
    await set(were);
  }
}
