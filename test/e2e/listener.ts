import type { Place } from "./site.ts";
import { until } from "./until.ts";

/** A process of a host's own that has a port. */
export interface Listener {
  /** As the host counts. */
  readonly pid: string;
  readonly stop: () => Promise<void>;
}

/**
 * Starts a process of a host's own that has a port, and waits until it has it.
 *
 * @param address socat's: `TCP4-LISTEN:80,bind=127.0.0.1`, `UDP6-RECV:53`
 */
export async function listen(host: Place, address: string): Promise<Listener> {
  const start = `socat -u '${address}' /dev/null >/dev/null 2>&1 </dev/null & echo $!`;
  const pid = (await host.exec(["sh", "-c", start])).stdout.trim();
  await until(`${address} to be taken`, async () => {
    const { stdout } = await host.exec(["ss", "-Hlntup"]);
    return stdout.includes(`pid=${pid},`);
  });
  const stop = async () => {
    await host.exec(["sh", "-c", 'kill "$0"; while [ -e "/proc/$0" ]; do sleep 0.01; done', pid], {
      allowFailure: true,
    });
  };
  return { pid, stop };
}

/** Every way in which a process may ask for a port, with the options that let it share one. */
function attempts(port: number): string[] {
  const [tcp, udp] = [`LISTEN:${String(port)}`, `RECV:${String(port)}`];
  return [
    ...[`TCP4-${tcp}`, `TCP4-${tcp},bind=127.0.0.1`, `TCP6-${tcp},ipv6only=1`, `TCP6-${tcp},bind=[::1]`],
    ...[`UDP4-${udp}`, `UDP4-${udp},bind=127.0.0.1`, `UDP6-${udp},ipv6only=1`, `UDP6-${udp},bind=[::1]`],
  ].flatMap((address) => [address, `${address},reuseaddr`, `${address},reuseaddr,reuseport`]);
}

/** Tries to take a port in every way, one after the other. @returns the ways that worked, and those that did not */
export async function tryToTake(host: Place, port: number): Promise<{ worked: string[]; refused: string[] }> {
  // One that got the port waits for its peer until it is ended; one that did not says so and ends.
  const script = `said=$(mktemp)
  for address; do
    : >"$said"
    socat -u "$address" /dev/null 2>"$said" &
    until grep -q 'Address already in use' "$said" || ss -Hlntup 'sport = :${String(port)}' | grep -q "pid=$!,"; do :; done
    if kill "$!" 2>/dev/null && ! [ -s "$said" ]; then echo "worked $address"; else echo "refused $address"; fi
    wait "$!"
  done
  rm "$said"`;
  const { stdout } = await host.exec(["sh", "-c", script, "sh", ...attempts(port)]);
  const lines = stdout.trim().split("\n");
  const those = (kind: string) =>
    lines.filter((line) => line.startsWith(kind)).map((line) => line.slice(kind.length + 1));
  return { worked: those("worked"), refused: those("refused") };
}
