import assert from "node:assert/strict";
import { isDeepStrictEqual } from "node:util";
import type { NetworkRequest } from "../../src/model.ts";
import { run } from "../lab/command.ts";
import type { FakeSandbox } from "../support/fake-sandbox.ts";
import { type HostState, hostState, ip, ipLink, plugWire } from "../support/isolated.ts";
import { CONTAINER_END, DEFAULTS, PARENT, describeMacvlan } from "../support/macvlan-kinds.ts";
import { endpointOf } from "../support/networks.ts";
import { id } from "../support/requests.ts";
import type { Site } from "../support/site.ts";
import { until as untilIn } from "../support/until.ts";
import { onWire } from "../support/wired-host.ts";

const VLAN = `${PARENT}.50`;
const network: NetworkRequest = { ...DEFAULTS, options: { backend: "macvlan", parent: VLAN } };
const second: NetworkRequest = { ...network, id: id(0x100) };
const endpoint = endpointOf(network, 2);

describe("a parent that is a VLAN", () => {
  const host = onWire();
  let site: Site;
  let atFirst: HostState;

  beforeEach(() => {
    ({ site, atFirst } = host);
  });

  describeMacvlan("on a VLAN that is made", network, host);

  it("is made: tagged, up, marked, with the MTU of the link below", async () => {
    await ip(`link set ${PARENT} mtu 1400`);
    await site.driver.createNetwork(network);
    const link = await ipLink(VLAN);
    assert.ok(link);
    assert.ok(link.flags.includes("UP"));
    assert.equal(link.mtu, 1400);
    assert.equal(link.ifalias, `tsnet parent ${VLAN}`);
    const { stdout } = await run(["ip", "-d", "link", "show", VLAN]);
    assert.match(stdout, /vlan protocol 802\.1Q id 50 /);
    assert.ok(stdout.includes(`${VLAN}@${PARENT}:`));
  });

  it("goes with the last of its networks, whichever that is", async () => {
    for (const [first, last] of [
      [network, second],
      [second, network],
    ] as const) {
      await site.driver.createNetwork(network);
      await site.driver.createNetwork(second);
      const made = (await ipLink(VLAN))?.ifindex;
      await site.driver.deleteNetwork(first.id);
      assert.equal((await ipLink(VLAN))?.ifindex, made);
      await site.restart();
      await site.driver.deleteNetwork(last.id);
      assert.deepEqual(await hostState(), atFirst);
    }
  });

  it("goes when two networks are made and deleted on it at the same time", async () => {
    const both = [network, second];
    for (let turn = 0; turn < 2; turn += 1) {
      await Promise.all(both.map((one) => site.driver.createNetwork(one)));
      assert.ok(await ipLink(VLAN));
      await Promise.all(both.map((one) => site.driver.deleteNetwork(one.id)));
      assert.deepEqual(await hostState(), atFirst);
    }
  });

  it("stays when its last network goes, as the host's own, while a container that is not tsnet's sits on it", async () => {
    const others = await host.sandbox();
    await site.driver.createNetwork(network);
    await site.driver.createEndpoint(endpoint);
    await ip(`link add eth0 link ${VLAN} netns ${String(others.pid)} type macvlan mode bridge`);
    await others.ip("link set eth0 up");
    const made = (await ipLink(VLAN))?.ifindex;
    await site.driver.deleteEndpoint(network.id, endpoint.id);
    await site.driver.deleteNetwork(network.id);
    const left = await ipLink(VLAN);
    assert.deepEqual([left?.ifindex, left?.group, left?.ifalias], [made, "default", undefined]);
    assert.deepEqual(await others.links(), ["eth0", "lo"]);
    assert.deepEqual(await site.reconcile(), {});
  });

  it("is not changed or deleted if it was there", async () => {
    await ip(`link add link ${PARENT} name ${VLAN} type vlan id 50`, `link set ${VLAN} mtu 1450 up`);
    const before = { host: await hostState(), link: await ipLink(VLAN) };
    await site.driver.createNetwork(network);
    await site.driver.createEndpoint(endpoint);
    assert.deepEqual(await ipLink(VLAN), before.link);
    assert.equal((await ipLink(CONTAINER_END))?.mtu, 1450);
    await site.driver.deleteNetwork(network.id);
    assert.deepEqual(await hostState(), before.host);
  });

  it("is used as it is, and stays, where the host has made it while there was none", async () => {
    const container = await host.joined(network);
    await ip(`link delete ${VLAN}`);
    await ip(`link add link ${PARENT} name ${VLAN} type vlan id 50`, `link set ${VLAN} mtu 1450 up`);
    const made = { ...(await hostState()), link: await ipLink(VLAN) };
    await site.reconcile();
    assert.equal((await container.describe()).mtu, 1450);
    assert.equal(site.reconciler.health.degraded.size, 0);
    await site.driver.deleteNetwork(network.id);
    assert.deepEqual({ ...(await hostState()), link: await ipLink(VLAN) }, made);
  });

  it("carries what has its tag, and nothing else, both ways", async () => {
    const lan = await host.sandbox();
    await ip(`link set wire1 netns ${String(lan.pid)}`);
    await lan.ip("link set wire1 up");
    for (const [number, link] of [
      [50, "wire1.50"],
      [51, "wire1.51"],
    ] as const) {
      await lan.ip(`link add link wire1 name ${link} type vlan id ${String(number)}`);
      await lan.ip(`link set ${link} up`);
    }
    const container = await host.joined(network);
    await lan.ip("address add 10.1.0.9/16 dev wire1.50");
    await until("the LAN to be reached", () => pings(container, "10.1.0.9"));
    await until("the container to be reached", () => pings(lan, "10.1.0.2"));
    for (const [from, to] of [
      ["wire1.50", "wire1.51"],
      ["wire1.51", "wire1"],
    ] as const) {
      await lan.ip(`address del 10.1.0.9/16 dev ${from}`);
      await lan.ip(`address add 10.1.0.9/16 dev ${to}`);
      assert.equal(await pings(container, "10.1.0.9"), false, to);
      assert.equal(await pings(lan, "10.1.0.2"), false, to);
    }
  });

  for (const [what, act] of Object.entries({
    "it is deleted": () => ip(`link delete ${VLAN}`),
    "the link below is deleted and comes back": async () => {
      await ip(`link delete ${PARENT}`);
      await until("the loss to be noticed", () => trouble()?.endsWith(`parent ${VLAN} is gone`) === true);
      await plugWire();
    },
  }))
    it(`is made again, with the containers' links inside their sandboxes, after ${what}`, async () => {
      const container = await host.joined(network);
      const [outside, inside] = [await hostState(), await container.describe()];
      await site.reconciler.start();
      await act();
      await until("everything is back", async () => {
        if (!(await container.links()).includes("eth0")) return false;
        return isDeepStrictEqual([await hostState(), await container.describe()], [outside, inside]);
      });
      await until("the network is well", () => trouble() === undefined);
      assert.deepEqual(await site.reconcile(), {});
    });

  it("follows the MTU of the link below, with the containers, up and down", async () => {
    const container = await host.joined(network);
    await site.reconciler.start();
    for (const mtu of [1400, 9000, 1500]) {
      await ip(`link set ${PARENT} mtu ${String(mtu)}`);
      await until(`an MTU of ${String(mtu)}`, async () => {
        const above = [(await ipLink(VLAN))?.mtu, (await container.describe()).mtu];
        return isDeepStrictEqual(above, [mtu, mtu]);
      });
    }
  });

  it("is made on a link that is down, told of, and works once that is up", async () => {
    await ip(`link set ${PARENT} down`);
    await site.reconciler.start();
    const container = await host.joined(network);
    await site.reconcile();
    assert.equal(trouble(), `parent ${VLAN} is down`);
    await ip(`link set ${PARENT} up`);
    await until("the network is well", () => trouble() === undefined);
    await until("the container has a carrier", async () =>
      (await container.describe()).flags.includes("LOWER_UP"),
    );
  });

  it("is put up again when somebody sets it down", async () => {
    await site.driver.createNetwork(network);
    await site.reconciler.start();
    await ip(`link set ${VLAN} down`);
    await until("it is up", async () => (await ipLink(VLAN))?.flags.includes("UP") === true);
  });

  it("that another link has the tag of is refused in one line, and the host is as it was", async () => {
    await ip(`link add link ${PARENT} name other type vlan id 50`);
    const before = await hostState();
    await assert.rejects(site.driver.createNetwork(network), /^[^\n]*wire0\.50[^\n]*$/);
    assert.deepEqual(await hostState(), before);
    assert.deepEqual(site.records(), {});
  });

  it("is not needed for a network without a parent: that has a dummy", async () => {
    await site.driver.createNetwork({ ...DEFAULTS, options: { backend: "macvlan" } });
    assert.equal((await ipLink(`tsp${id(1).slice(0, 12)}`))?.linkinfo?.info_kind, "dummy");
  });

  function trouble(): string | undefined {
    return site.reconciler.health.degraded.get(`network ${network.id}`);
  }
});

/** In user mode everything takes ten times as long. */
async function until(what: string, condition: () => unknown): Promise<void> {
  await untilIn(what, condition, { timeoutMs: 60_000, everyMs: 50 });
}

/** Whether an echo request is answered within a second. */
async function pings({ path }: FakeSandbox, address: string): Promise<boolean> {
  const command = ["nsenter", `--net=${path}`, "ping", "-c", "1", "-W", "1", address];
  return (await run(command, { allowFailure: true })).code === 0;
}
