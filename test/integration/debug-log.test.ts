import assert from "node:assert/strict";
import { ip, mustBeIsolated, plugWire, wipe } from "../support/isolated.ts";
import { NETWORKS, PORTS, endpointOf } from "../support/networks.ts";
import { Site } from "../support/site.ts";

const LAN = { backend: "macvlan", parent: "wire0", host_access: "on" };
const DUAL = NETWORKS["dual stack"] ?? assert.fail();

describe("the log at level debug", () => {
  let site: Site;

  before(mustBeIsolated);
  beforeEach(async () => {
    await ip("link add own-br type bridge");
    site = new Site();
  });
  afterEach(async () => {
    await site.stop();
    await wipe();
  });

  for (const [kind, network] of Object.entries({ ...NETWORKS, macvlan: { ...DUAL, options: LAN } }))
    it(`shows each step that changed something, in the order in which that was done: ${kind}`, async () => {
      const endpoint = endpointOf(network);
      const { id } = endpoint;
      const records = { network: `record network ${network.id}`, endpoint: `record endpoint ${id}` };
      const shown = async (operation: Promise<unknown>) => {
        const from = site.lines.length;
        site.faults.plan();
        await operation;
        const steps = site.lines.slice(from).filter(({ step }) => step !== undefined);
        for (const { level, network: of } of steps) assert.deepEqual([level, of], ["debug", network.id]);
        return steps.map(({ msg, step }) => `${msg === "applied" ? "apply" : "revert"} ${String(step)}`);
      };
      const { changes } = site.faults;
      if (kind === "macvlan") await plugWire();

      const created = await shown(site.driver.createNetwork(network));
      assert.deepEqual(created, [`apply ${records.network}`, ...changes]);
      assert.ok(created.length > 1, created.join());
      const attached = await shown(site.driver.createEndpoint(endpoint));
      assert.deepEqual(attached, [`apply ${records.endpoint}`, ...changes]);
      assert.ok(attached.length > 1, attached.join());
      assert.deepEqual(await shown(site.driver.createEndpoint(endpoint)), [], "nothing was changed");
      const joined = await shown(site.driver.join(network.id, id, "/run/docker/netns/x"));
      assert.deepEqual(joined, [`apply ${records.endpoint}`]);

      const published = await shown(site.driver.ports.publish(network.id, id, PORTS));
      if (network.internal || kind === "macvlan") assert.deepEqual(published, []);
      else
        assert.deepEqual(published, [
          `apply ${records.endpoint}`,
          `apply ports that endpoint ${id} no longer publishes`,
          ...changes,
        ]);
      assert.deepEqual(await shown(site.driver.leave(network.id, id)), [
        `apply ${records.endpoint}`,
        ...changes,
      ]);
      const detached = await shown(site.driver.deleteEndpoint(network.id, id));
      assert.deepEqual(detached, [...changes, `revert ${records.endpoint}`]);
      const deleted = await shown(site.driver.deleteNetwork(network.id));
      assert.deepEqual(deleted, [...changes, `revert ${records.network}`]);
    });
});
