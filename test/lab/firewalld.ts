import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type CommandResult, LabError } from "./command.ts";
import { install, tree } from "./debian.ts";
import type { LabHost } from "./host.ts";

/** What firewalld writes its rules with. */
export type FirewalldBackend = "nftables" | "iptables";

/** How long the bus and firewalld may take to answer; it reads hundreds of small files in Python. */
const READY_MS = 30_000;

/** A system bus on which everybody may do everything: there is nobody but root on a lab host. */
const BUS = `<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/> <allow own="*"/> <allow send_destination="*"/> <allow receive_sender="*"/>
  </policy>
</busconfig>`;

/**
 * firewalld on a lab host, with a system bus of the host's own. Its packages are unpacked and not installed, so
 * that the machine's own firewall is not touched.
 */
export class Firewalld {
  readonly #host: LabHost;
  readonly #root: string;
  #bus = "";
  #daemon = "";

  private constructor(host: LabHost, root: string) {
    this.#host = host;
    this.#root = root;
  }

  /** Starts bus and firewalld and waits until it answers. */
  static async start(host: LabHost, backend: FirewalldBackend): Promise<Firewalld> {
    await install("dbus-daemon", "python3-dbus", "python3-gi", "gir1.2-glib-2.0", "libnftables1");
    const packages = ["firewalld", "python3-firewall", "python3-nftables"];
    const { root } = await tree("firewalld", { bookworm: packages });
    const firewalld = new Firewalld(host, root);
    const settings = `DefaultZone=public\nFirewallBackend=${backend}\nLogDenied=off\n`;
    await firewalld.#sh(
      "rm -rf /etc/firewalld && mkdir -p /etc/firewalld /run/dbus && cat >/etc/firewalld/firewalld.conf",
      settings,
    );
    await firewalld.startBus();
    await firewalld.startDaemon();
    return firewalld;
  }

  /** Starts the bus alone. */
  async startBus(): Promise<void> {
    await this.#sh("cat >/run/dbus/system.conf", BUS);
    const command = "dbus-daemon --config-file=/run/dbus/system.conf --fork --print-pid";
    this.#bus = (await this.#sh(command)).stdout.trim();
  }

  /** Starts firewalld on the bus that is there. */
  async startDaemon(): Promise<void> {
    const arguments_ = `--nofork --nopid --default-config "$0/usr/lib/firewalld" --system-config /etc/firewalld`;
    const command = `"$0/usr/sbin/firewalld" ${arguments_} >/run/firewalld.log 2>&1 </dev/null & echo $!`;
    this.#daemon = (await this.#sh(command)).stdout.trim();
    const deadline = Date.now() + READY_MS;
    while ((await this.cmd("--state").catch(() => undefined)) !== "running") {
      if (Date.now() > deadline)
        throw new LabError(`firewalld does not answer: ${(await this.#sh("cat /run/firewalld.log")).stdout}`);
      await sleep(100);
    }
  }

  /** Runs firewall-cmd. @returns its output without space around it */
  async cmd(...args: string[]): Promise<string> {
    const { stdout } = await this.#host.exec([join(this.#root, "usr/bin/firewall-cmd"), ...args], this.#env);
    return stdout.trim();
  }

  /** Ends firewalld, which takes its rules with it. */
  async stopDaemon(): Promise<void> {
    await this.#end("TERM", this.#daemon);
  }

  /** Stops the bus where it is, so that whoever asks waits; or lets it go on. */
  async hold(held: boolean): Promise<void> {
    await this.#sh(`kill -s ${held ? "STOP" : "CONT"} ${this.#bus}`);
  }

  /** Ends firewalld and the bus, and removes what they kept. */
  async stop(): Promise<void> {
    await this.stopDaemon();
    await this.#end("TERM", this.#bus);
    await this.#sh("rm -rf /etc/firewalld /run/dbus /run/firewalld.log");
  }

  get #env() {
    return { env: { PYTHONPATH: join(this.#root, "usr/lib/python3/dist-packages") } };
  }

  async #end(signal: string, pid: string): Promise<void> {
    if (pid === "") return;
    const script = 'kill -s "$0" "$1"; while [ -e "/proc/$1" ]; do sleep 0.05; done';
    await this.#host.exec(["sh", "-c", script, signal, pid], { allowFailure: true });
  }

  async #sh(script: string, input = ""): Promise<CommandResult> {
    return await this.#host.exec(["sh", "-c", script, this.#root], { input, ...this.#env });
  }
}
