import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import type { NetworkRequest } from "../../src/model.ts";
import { LEAVING_GROUP } from "../../src/names.ts";
import { run } from "../lab/command.ts";
import { FakeSandbox } from "../support/fake-sandbox.ts";
import { ip, ipLinks, mustBeIsolated, ruleLines } from "../support/isolated.ts";
import { NETWORKS, PORTS, V4, endpointOf } from "../support/networks.ts";
import { Site } from "../support/site.ts";

const BOTH = NETWORKS["dual stack"] ?? assert.fail();
const BRIDGE: NetworkRequest = { ...BOTH, ipv4: [V4], ipv6: [] };
const MACVLAN: NetworkRequest = {
  ...BRIDGE,
  options: { backend: "macvlan", parent: "wire0", host_access: "on" },
};

/** A server that says when it listens. */
const LISTEN = `
  my $server = IO::Socket::INET->new(LocalPort => 8080, Listen => 1) or die $!;
  $| = 1;
  print "listening";
  sleep;`;

/** It needs a kernel that was started so (`ipv6.disable=1`): see boot.ts. */
describe("a kernel without IPv6", () => {
  let site: Site;
  let sandbox: FakeSandbox;

  before(async () => {
    mustBeIsolated();
    assert.equal(existsSync("/proc/sys/net/ipv6"), false);
    // So that the first network does not, which would stay.
    await run(["iptables", "-P", "FORWARD", "DROP"]);
  });
  beforeEach(async () => {
    site = new Site();
    sandbox = await FakeSandbox.start();
  });
  afterEach(async () => {
    await site.stop();
    await sandbox.end();
  });

  it("has containers on a bridge, with published ports, repairs them and leaves nothing", async () => {
    const before = await state();
    await attached(BRIDGE);
    await site.driver.ports.publish(BRIDGE.id, endpointOf(BRIDGE).id, PORTS);
    await mustPing("10.1.0.2");
    const made = await state();
    await run(["iptables", "-t", "nat", "-F"]);
    await site.reconcile();
    assert.deepEqual(await state(), made);
    assert.match(made.rules.join("\n"), /--dport 8080 .*-j DNAT --to-destination 10\.1\.0\.2:80/);
    await site.driver.deleteNetwork(BRIDGE.id);
    assert.deepEqual(await state(), before);
  });

  it("refuses a port that a process has, and says whose it is", async () => {
    const server = spawn("perl", ["-MIO::Socket::INET", "-e", LISTEN]);
    await once(server.stdout, "data");
    await attached(BRIDGE);
    await assert.rejects(
      site.driver.ports.publish(BRIDGE.id, endpointOf(BRIDGE).id, PORTS),
      new RegExp(`8080/tcp: the port is taken by process ${String(server.pid)} \\(perl\\)$`),
    );
    await site.driver.deleteNetwork(BRIDGE.id);
    server.kill();
  });

  it("has containers on a bridge of the host's", async () => {
    await ip("link add own-br type bridge", "link set own-br up");
    const before = await state();
    const options = { "com.docker.network.bridge.name": "own-br" };
    await attached({ ...BRIDGE, options });
    await mustPing("10.1.0.2");
    await site.driver.deleteNetwork(BRIDGE.id);
    assert.deepEqual(await state(), before);
    await ip("link delete own-br");
  });

  it("has containers on a LAN that their host reaches", async () => {
    await ip("link add wire0 type veth peer name wire1", "link set wire0 up", "link set wire1 up");
    await ip("address add 10.1.0.200/16 dev wire0");
    const before = await state();
    await attached(MACVLAN);
    await mustPing("10.1.0.2");
    await site.driver.deleteNetwork(MACVLAN.id);
    assert.deepEqual(await state(), before);
    await ip("link delete wire0");
  });

  for (const [kind, options] of Object.entries({ bridge: {}, macvlan: { backend: "macvlan" } }))
    it(`refuses a ${kind} network with IPv6, and says why`, async () => {
      const before = await state();
      await assert.rejects(
        site.driver.createNetwork({ ...BOTH, options }),
        /this kernel has no IPv6 \(ipv6\.disable=1\)/,
      );
      assert.deepEqual(await state(), before);
    });

  async function attached(network: NetworkRequest): Promise<void> {
    const endpoint = endpointOf(network);
    await site.driver.createNetwork(network);
    await site.driver.createEndpoint(endpoint);
    await site.driver.join(network.id, endpoint.id, sandbox.path);
    await sandbox.take(endpoint, "eth0");
  }
});

async function mustPing(address: string): Promise<void> {
  await run(["ping", "-c", "1", "-W", "10", address]);
}

/** Links on their way out are none. */
async function state(): Promise<{ links: string[]; rules: string[] }> {
  const links = (await ipLinks()).filter(({ group }) => group !== String(LEAVING_GROUP));
  return { links: links.map(({ ifname }) => ifname).sort(), rules: await ruleLines(4) };
}
