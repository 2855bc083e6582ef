import { run } from "./command.ts";
import { Namespace } from "./namespace.ts";

/** Addresses of a host on the underlay, without a prefix length. */
export interface UnderlayAddress {
  readonly v4: string;
  readonly v6: string;
}

/** Where every host's default routes and its resolver point; nothing is behind it. */
export const GATEWAY: UnderlayAddress = { v4: "10.111.0.254", v6: "fd00:111::fe" };

/** The wire between lab hosts: a bridge in a namespace of its own. Nothing on it reaches the machine's devices. */
export class Underlay {
  private readonly namespace: Namespace;
  private hosts = 0;

  private constructor(namespace: Namespace) {
    this.namespace = namespace;
  }

  /** Makes the namespace and the bridge. */
  static async start({
    name = "underlay",
    detached,
  }: { name?: string; detached?: boolean } = {}): Promise<Underlay> {
    const namespace = await Namespace.start({ name, detached });
    const underlay = new Underlay(namespace);
    // Without snooping, multicast (neighbour discovery, VXLAN groups) reaches every host at once.
    await underlay.ip(
      "link add br0 type bridge mcast_snooping 0",
      `addr add ${GATEWAY.v4}/24 dev br0`,
      `addr add ${GATEWAY.v6}/64 dev br0 nodad`,
      "link set br0 up",
    );
    return underlay;
  }

  /** Runs a command on the wire, where the bridge is: capture with tcpdump, or take a port down. */
  readonly exec: Namespace["exec"] = (argv, options) => this.namespace.exec(argv, options);

  /** Addresses for one more host, in the order of the calls. */
  allocate(): UnderlayAddress {
    this.hosts += 1;
    return { v4: `10.111.0.${String(this.hosts)}`, v6: `fd00:111::${this.hosts.toString(16)}` };
  }

  /** Gives a host `eth0`, these addresses and default routes; its port on the bridge is `port-NAME`. */
  async join(host: Namespace, address: UnderlayAddress): Promise<void> {
    const port = `port-${host.name}`;
    await this.ip(
      `link add ${port} type veth peer name eth0 netns ${String(host.pid)}`,
      `link set ${port} master br0 up`,
    );
    const commands = [
      `addr add ${address.v4}/24 dev eth0`,
      `addr add ${address.v6}/64 dev eth0 nodad`,
      "link set eth0 up",
      `route add default via ${GATEWAY.v4}`,
      `-6 route add default via ${GATEWAY.v6}`,
    ];
    for (const command of commands) await host.exec(["ip", ...command.split(" ")]);
  }

  /** Ends it; the hosts lose their `eth0`. */
  async stop(): Promise<void> {
    await this.namespace.stop();
  }

  private async ip(...commands: string[]): Promise<void> {
    // Only the network namespace is entered: `netns PID` means a PID of the machine.
    const enter = ["nsenter", `--target=${String(this.namespace.pid)}`, "--net"];
    await run([...enter, "ip", "-batch", "-"], { input: `${commands.join("\n")}\n` });
  }
}
