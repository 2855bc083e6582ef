import assert from "node:assert/strict";
import { interfaces } from "../e2e/interfaces.ts";
import { Lan, PARENT } from "../e2e/lan.ts";
import { onNewestEngine } from "../e2e/newest-engine.ts";
import { pings } from "../e2e/packets.ts";
import { endPowerCycles, powerCycle } from "../e2e/power.ts";
import { until } from "../e2e/until.ts";

const VLAN = `${PARENT}.50`;
const CLIENT = "10.78.0.2";
const CONTAINER = "10.78.0.100";
/** In user mode everything takes ten times as long, and other tests run beside these. */
const START_MS = 120_000;

onNewestEngine("a network on a VLAN that is made", (site) => {
  let lan: Lan;

  before(async () => {
    lan = await Lan.start();
    await lan.plug(site.host, 11);
    const { exec } = lan.client;
    await exec(["ip", "link", "add", "link", "eth0", "name", "eth0.50", "type", "vlan", "id", "50"]);
    await exec(["ip", "address", "add", `${CLIENT}/24`, "dev", "eth0.50"]);
    await exec(["ip", "link", "set", "eth0.50", "up"]);
    const subnet = ["--subnet", "10.78.0.0/24", "--gateway", "10.78.0.1"];
    await site.network("blue", "-o", "backend=macvlan", "-o", `parent=${VLAN}`, ...subnet);
    await site.run("one", "blue", "--restart", "always", "--ip", CONTAINER);
  });
  after(async () => {
    await site.clear();
    await endPowerCycles(site.host);
    await lan.unplug(site.host);
    await lan.stop();
  });

  it("has its container reach the VLAN and be reached", () => mustReachEachOther());

  it("is as it was when tsnet is killed and started again", async () => {
    await site.host.killTsnet();
    await mustReachEachOther();
    await site.host.startTsnet();
    await mustReachEachOther();
  });

  it("is made again, with its container, when the host starts anew", async () => {
    await powerCycle(site.host);
    assert.equal(await hasVlan(), false);
    await lan.unplug(site.host);
    await lan.plug(site.host, 11);
    await site.host.startTsnet();
    await site.host.startEngine();
    await mustReachEachOther();
  });

  it("takes the VLAN away when it is removed, and leaves the link below as it is", async () => {
    const before = await parent();
    await site.docker("rm", "-f", "one");
    assert.equal(await hasVlan(), true);
    await site.docker("network", "rm", "blue");
    assert.equal(await hasVlan(), false);
    assert.deepEqual(await parent(), before);
  });

  async function mustReachEachOther(): Promise<void> {
    const running = async () => (await site.host.api.listContainers()).length === 1;
    await until("the container to run", running, START_MS);
    await until("the container to reach the VLAN", () => pings(site.container("one"), CLIENT), START_MS);
    await until("the container to be reached", () => pings(lan.client, CONTAINER), START_MS);
  }

  async function hasVlan(): Promise<boolean> {
    return VLAN in (await interfaces(site));
  }

  async function parent() {
    const { [PARENT]: link } = await interfaces(site);
    return link && { mtu: link.mtu, address: link.address, flags: link.flags, addresses: link.addr_info };
  }
});
