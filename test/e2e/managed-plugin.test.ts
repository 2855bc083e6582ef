import assert from "node:assert/strict";
import { join } from "node:path";
import { install } from "../lab/debian.ts";
import { NEWEST } from "../lab/engines.ts";
import { LabHost } from "../lab/host.ts";
import { BOX } from "../lab/image.ts";
import { Underlay } from "../lab/underlay.ts";
import { engineOrSkip } from "../support/engine-or-skip.ts";
import { until } from "./until.ts";

/** On a host of its own: elsewhere tsnet runs beside the engine. */
const SCRIPT = join(import.meta.dirname, "../../scripts/plugin");
const DRIVER = "tsnet:latest";
const HERE = "10.91.0";

describe("managed plugin", function () {
  this.timeout(300_000);
  const started: { stop(): Promise<void> }[] = [];
  let host: LabHost;
  const docker = (command: string) => host.docker(...command.split(" "));
  const inside = async (container: string, ...argv: string[]) =>
    (await host.inContainer(container, argv, { allowFailure: true })).stdout;

  before(async function () {
    await install("iputils-ping", "socat");
    const underlay = await Underlay.start({ name: "plugin" });
    started.push(underlay);
    host = await engineOrSkip(this, LabHost.start({ name: "managed", underlay, engine: NEWEST }));
    started.push(host);
    // The engine's mounts are to be seen by the plugin, as they are under systemd, and the state is this host's.
    await host.exec(["sh", "-ec", "mount --make-rshared /run; mount -t tmpfs none /var/lib"]);
    await host.exec([SCRIPT], { timeoutMs: 120_000 });
  });
  after(async () => {
    for (const part of started.reverse()) await part.stop();
  });

  it("connects containers and publishes their ports, also after the engine has started again", async () => {
    await docker(`network create -d ${DRIVER} --subnet ${HERE}.0/24 blue`);
    await docker(`run -d --restart always --name one --network blue ${BOX}`);
    await docker(
      `run -d --restart always --name two --network blue --ip ${HERE}.9 -p 8080:80 --stop-signal KILL ${BOX} httpd -f -p 80`,
    );
    const works = async () => {
      await until("an answer within the network", async () =>
        (await inside("one", "ping", "-nc1", "-W1", `${HERE}.9`)).includes(" 0% packet loss"),
      );
      const asked = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | socat - TCP4:127.0.0.1:8080";
      const answer = await host.exec(["sh", "-c", asked], { allowFailure: true });
      assert.match(answer.stdout, /^HTTP\/1/);
    };
    await works();
    await host.stopEngine();
    await host.startEngine();
    await works();
    await docker("rm -f one two");
    await docker("network rm blue");
  });

  it("repairs what is in a sandbox", async () => {
    await docker(`network create -d ${DRIVER} -o backend=macvlan -o parent=eth0 --subnet ${HERE}.0/24 lan`);
    await docker(`run -d --name one --network lan ${BOX}`);
    await inside("one", "ip", "link", "delete", "eth0");
    await until("the link to be back", async () =>
      (await inside("one", "ip", "-br", "link")).includes("eth0"),
    );
    await docker("rm -f one");
    await docker("network rm lan");
  });

  it("leaves nothing on the host when it goes", async () => {
    await docker("plugin disable tsnet");
    await docker("plugin rm tsnet");
    const { stdout } = await host.exec(["sh", "-c", "ip -br link; iptables-save; ip6tables-save"]);
    assert.doesNotMatch(stdout, /^ts|TSNET/m);
  });
});
