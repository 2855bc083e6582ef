import assert from "node:assert/strict";
import type { NetworkRequest } from "../../src/model.ts";
import { run } from "../lab/command.ts";
import { type HostState, flushRules, hostState, ipLink } from "./isolated.ts";
import { V4, V6, endpointOf } from "./networks.ts";
import { id } from "./requests.ts";
import type { Site } from "./site.ts";
import type { WiredHost } from "./wired-host.ts";
import type { Moment } from "./world.ts";

/** The link that networks are on, of plugWire(). */
export const PARENT = "wire0";
/** A network without its options. */
export const DEFAULTS = { id: id(1), internal: false, ipv4: [V4], ipv6: [V6] };
/** The link of container 2, and the host's own beside the containers. */
export const CONTAINER_END = linkOf(2);
export const SHIM = `tsm${id(1).slice(0, 12)}`;
const MOMENTS: readonly Moment[] = ["before", "after"];

/** What holds for a macvlan network of any kind: one of them at a time is made and deleted, whole and with faults. */
export function describeMacvlan(kind: string, network: NetworkRequest, host: WiredHost): void {
  const endpoint = endpointOf(network, 2);

  describe(`a network that is ${kind}`, () => {
    let site: Site;
    let atFirst: HostState;

    beforeEach(() => {
      ({ site, atFirst } = host);
    });

    it("has for an endpoint a link for the sandbox: marked, down, with the MAC it told and the parent's MTU", async () => {
      const parent = await ipLink(PARENT);
      await site.driver.createNetwork(network);
      const mac = await site.driver.createEndpoint(endpoint);
      const link = await ipLink(CONTAINER_END);
      assert.ok(link);
      assert.equal(link.linkinfo?.info_kind, "macvlan");
      assert.equal(link.address, mac);
      assert.equal(mac === parent?.address, kind === "passthru");
      assert.equal(link.ifalias, `tsnet endpoint ${endpoint.id}`);
      assert.equal(link.group, "29811");
      assert.equal(link.mtu, 1500);
      assert.ok(!link.flags.includes("UP"));
      const { stdout } = await run(["ip", "-d", "link", "show", CONTAINER_END]);
      assert.match(stdout, new RegExp(`macvlan mode ${network.options["macvlan_mode"] ?? "bridge"} `));
    });

    it("is not changed by being made a second time, nor after a restart", async () => {
      await make();
      const [made, records] = [await hostState(), site.records()];
      await make();
      await site.restart();
      await make();
      assert.deepEqual(await hostState(), made);
      assert.deepEqual(site.records(), records);
      assert.deepEqual(await site.reconcile(), {});
      assert.deepEqual(await hostState(), made);
    });

    it("leaves the host as it was, in whatever order it is deleted", async () => {
      await make();
      assert.notDeepEqual(await hostState(), atFirst);
      await site.driver.deleteEndpoint(network.id, endpoint.id);
      await site.driver.deleteNetwork(network.id);
      assert.deepEqual(await hostState(), atFirst);
      await make();
      await site.restart();
      await site.driver.deleteNetwork(network.id);
      await site.driver.deleteNetwork(network.id);
      assert.deepEqual(await hostState(), atFirst);
      assert.deepEqual(site.records(), {});
    });

    it("is made again by the reconciler when all of it is gone", async () => {
      await make();
      const made = await hostState();
      for (const name of [CONTAINER_END, SHIM, `tsp${id(1).slice(0, 12)}`])
        await run(["ip", "link", "delete", name], { allowFailure: true });
      await flushRules({ chains: true });
      assert.notDeepEqual(await hostState(), made);
      const drift = await site.reconcile();
      assert.ok((drift["link"] ?? 0) >= 1);
      assert.deepEqual(await hostState(), made);
    });

    it("leaves host and store as they were, whichever step fails, and can be made then", async function () {
      this.timeout(120_000);
      for (const name of ["network", "endpoint"] as const) {
        const [host, store] = [await hostState(), JSON.stringify(site.records())];
        let steps = 1;
        for (let step = 0; step < steps; step += 1)
          for (const moment of MOMENTS) {
            site.faults.plan([step, moment]);
            const failure = await one(name).then(() => "none", String);
            // On a parent that is there already a network has nothing to make.
            if (name === "network" && site.faults.calls.length === 0) break;
            assert.match(failure, /fault (before|after) apply/);
            const what = `${site.faults.calls[step] ?? "?"}, ${moment}`;
            assert.deepEqual(await hostState(), host, what);
            assert.equal(JSON.stringify(site.records()), store, what);
            site.faults.plan();
            await one(name);
            steps = site.faults.calls.length;
            assert.deepEqual(await site.reconcile(), {}, what);
            site.faults.plan();
            if (name === "network") await site.driver.deleteNetwork(network.id);
            else await site.driver.deleteEndpoint(network.id, endpoint.id);
            assert.deepEqual(await hostState(), host, what);
          }
        await one(name);
      }
    });

    it("is deleted completely in the end, whichever step of that fails", async function () {
      this.timeout(120_000);
      for (const name of ["endpoint", "network"] as const) {
        let steps = 1;
        for (let step = 0; step < steps; step += 1)
          for (const moment of MOMENTS) {
            await make();
            site.faults.plan([step, moment]);
            const removal =
              name === "endpoint"
                ? site.driver.deleteEndpoint(network.id, endpoint.id)
                : site.driver.deleteNetwork(network.id);
            assert.match(await removal.then(() => "none", String), /fault (before|after) revert/);
            steps = site.faults.calls.length;
            const what = `${name}: ${site.faults.calls[step] ?? "?"}, ${moment}`;
            site.faults.plan();
            site.engineKnows = [];
            await site.reconcile();
            assert.deepEqual(await hostState(), atFirst, what);
            assert.deepEqual(site.records(), {}, what);
          }
      }
    });

    const access = network.options["host_access"] === "on";
    it(`has ${access ? "a" : "no"} link of the host's own beside the containers`, async () => {
      await make();
      assert.equal((await ipLink(SHIM)) !== undefined, access);
    });

    async function make(): Promise<void> {
      await one("network");
      await one("endpoint");
    }

    async function one(name: "network" | "endpoint"): Promise<void> {
      if (name === "network") await site.driver.createNetwork(network);
      else await site.driver.createEndpoint(endpoint);
    }
  });
}

/** The name of a container's link. */
export function linkOf(number: number): string {
  return `tsc${id(number).slice(0, 12)}`;
}
