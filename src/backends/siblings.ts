import type { Firewall } from "../firewall/firewall.ts";
import { sharedRule } from "../firewall/port-rules.ts";
import type { Rule } from "../firewall/rule.ts";
import { FAMILIES, type Family, isEverywhere } from "../ip.ts";
import { type Endpoint, addressOf, pools } from "../model.ts";
import { ruleComment } from "../names.ts";
import { type Step, untilLast } from "../step.ts";
import type { State } from "../store/state.ts";

/**
 * What published ports need of a container that is on several networks. A client on one of the others is answered
 * there, within a bridge or on a LAN, where nobody translates the answer back: so it is hidden behind
 * the host, and the answer comes by the way that the question went. Every other client keeps its address.
 */
export class Siblings {
  readonly #firewall: Firewall;
  readonly #state: Pick<State, "network" | "endpoint" | "inSandbox">;

  /** @param state which networks a container is on */
  constructor(firewall: Firewall, state: Pick<State, "network" | "endpoint" | "inSandbox">) {
    this.#firewall = firewall;
    this.#state = state;
  }

  /** The rules for what an endpoint publishes by the bridge, while its container is on other networks too. */
  rules(bridge: string, endpoint: Endpoint): Rule[] {
    const comment = ruleComment(endpoint.network);
    return FAMILIES.filter((family) => translates(endpoint, family)).flatMap((family) => {
      const containerAddress = addressOf(endpoint, family);
      if (containerAddress === undefined) return [];
      return this.#subnets(endpoint, family).map((subnet) =>
        sharedRule({ family, containerAddress, bridge, comment }, subnet),
      );
    });
  }

  /** What makes those rules: they serve all ports of the endpoint together, and go with the last one. */
  steps(bridge: string, endpoint: Endpoint): Step[] {
    const rules = this.rules(bridge, endpoint);
    return FAMILIES.flatMap((family) => {
      const mine = rules.filter((rule) => rule.family === family);
      if (mine.length === 0) return [];
      const what = `rules of endpoint ${endpoint.id} for its container's other networks, IPv${family}`;
      const others = () => this.#othersOf(endpoint, family);
      return untilLast(this.#firewall.rules(what, mine), others);
    });
  }

  /** Ports on record that the endpoint here is not about. */
  #othersOf({ network, id, ports = [] }: Endpoint, family: Family): readonly unknown[] {
    const keys = new Set(ports.map((port) => JSON.stringify(port)));
    const recorded = this.#state.endpoint(network, id)?.ports ?? [];
    return recorded.filter((port) => port.host && port.family === family && !keys.has(JSON.stringify(port)));
  }

  #subnets({ network, sandbox }: Endpoint, family: Family): string[] {
    if (!sandbox) return [];
    const others = this.#state.inSandbox(sandbox).filter((sibling) => sibling.network !== network);
    return others.flatMap((sibling) => {
      const other = this.#state.network(sibling.network);
      const subnets = other ? pools(other, family).map(({ subnet }) => subnet) : [];
      return subnets.filter((subnet) => !isEverywhere(subnet));
    });
  }
}

function translates({ ports = [] }: Endpoint, family: Family): boolean {
  return ports.some((port) => port.family === family && port.host);
}
