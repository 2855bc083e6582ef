import * as z from "zod";
import type { Backend, GatewayNeed } from "../../src/backends/backend.ts";
import { BridgeOptions } from "../../src/backends/bridge-options.ts";
import { BridgeBackend } from "../../src/backends/bridge.ts";
import type { Publisher } from "../../src/backends/publisher.ts";
import { Firewall } from "../../src/firewall/firewall.ts";
import type { Rule } from "../../src/firewall/rule.ts";
import type { Host } from "../../src/kernel/host.ts";
import type { Endpoint, JoinResponse, Network, PortBinding, PublishedPort } from "../../src/model.ts";
import type { Step } from "../../src/step.ts";
import type { State } from "../../src/store/state.ts";
import { ALL_KNOWN } from "./known.ts";
import type { World } from "./world.ts";

/** The bridge backend's, and the one that the captured networks have. */
const Options = BridgeOptions.extend({ k1: z.string().optional() });
type Options = z.infer<typeof Options>;

const nowhere: unknown = undefined;

/**
 * The bridge backend with a {@link World} in place of the host: what needs no host (options, what Join answers) is
 * the real one's, and the plans' steps have the world's things for links and rules.
 */
export class FakeBackend implements Backend<Options> {
  readonly options = Options;
  readonly concurrentEndpoints = true;
  readonly #world: World;
  readonly #bridge = new BridgeBackend(
    nowhere as Host,
    new Firewall(),
    nowhere as Publisher,
    {},
    nowhere as State,
    ALL_KNOWN,
  );

  constructor(world: World) {
    this.#world = world;
  }

  survey(): Promise<{ mtu: number }> {
    return Promise.resolve({ mtu: 1500 });
  }

  gatewayNeed(options: Options): GatewayNeed {
    return this.#bridge.gatewayNeed(options);
  }

  network({ id }: Network): Step[] {
    return [this.#world.step(`bridge of ${short(id)}`), this.#world.step(`rules of ${short(id)}`)];
  }

  endpoint(_: Network, { id }: Endpoint): Step[] {
    return [this.#world.step(`link of ${short(id)}`)];
  }

  join(network: Network<Options>, endpoint: Endpoint): JoinResponse {
    const found = { adopted: false, addresses: [], mtu: 1500, uplinkPackets: 0 };
    return this.#bridge.join({ ...network, found }, endpoint);
  }

  choosePorts(_: Network, __: Endpoint, bindings: readonly PortBinding[]): PublishedPort[] {
    return bindings.map(({ protocol, containerPort, hostAddress, hostPort }) => ({
      protocol,
      containerPort,
      family: 4,
      host: { address: hostAddress || "0.0.0.0", port: hostPort || 32_768 },
    }));
  }

  publish(_: Network, { id, ports = [] }: Endpoint): Step[] {
    return ports.map(({ protocol, containerPort, host }) =>
      this.#world.step(`port ${host?.port ?? 0} to ${containerPort}/${protocol} of ${short(id)}`),
    );
  }

  rules(): Rule[] {
    return [];
  }
}

function short(id: string): string {
  return id.slice(0, 6);
}
