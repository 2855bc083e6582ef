import type * as z from "zod";
import type { Rule } from "../firewall/rule.ts";
import type { Family } from "../ip.ts";
import type { Endpoint, JoinResponse, Network, PortBinding, PublishedPort } from "../model.ts";
import type { Step } from "../step.ts";

/** A way of connecting containers. It plans and does not act. */
export interface Backend<O = unknown, F = unknown> {
  /** The `-o` options it takes, their defaults and their documentation. Unknown ones are refused. */
  readonly options: z.ZodType<O>;
  /** Endpoints that a network can have. Absent: as many as it has addresses for. */
  readonly capacity?: number;
  /** Each endpoint is made and removed by itself, so that may be done for several at once. */
  readonly concurrentEndpoints?: true;
  /**
   * Looks at the host before a network is made, and refuses what cannot work there. Changes nothing.
   *
   * @param others the networks there are already
   * @returns what must be remembered of the host as it was, see {@link Network.found}
   */
  survey(network: Network<O>, others: readonly Network[]): Promise<F>;
  /** In which families the engine need not reserve a gateway address (GwAllocCheck). */
  gatewayNeed(options: O): GatewayNeed;
  /** What makes the network. */
  network(network: Network<O, F>): Step[];
  /** What attaches a container to it. */
  endpoint(network: Network<O, F>, endpoint: Endpoint): Step[];
  /** What the engine does with the sandbox. */
  join(network: Network<O, F>, endpoint: Endpoint): JoinResponse;
  /**
   * Chooses and takes the host ports for what a container publishes. Absent: this backend cannot publish.
   *
   * @param elsewhere families that another endpoint of the container publishes for, if this one does not have them
   * @throws {ConflictError} that names address, port and who has it; then none is taken
   */
  choosePorts?(
    network: Network<O, F>,
    endpoint: Endpoint,
    bindings: readonly PortBinding[],
    elsewhere: readonly Family[],
  ): PublishedPort[];
  /** The part of {@link publish} that keeps everybody else from the endpoint's host ports. */
  reserve?(network: Network<O, F>, endpoint: Endpoint): Step;
  /** What publishes the endpoint's ports. */
  publish?(network: Network<O, F>, endpoint: Endpoint): Step[];
  /**
   * A container of the network has come to another one, or left one: makes the rules what {@link rules} says now.
   *
   * @param endpoints all of the network
   * @param sandbox the container's
   */
  onSiblings?(network: Network<O, F>, endpoints: readonly Endpoint[], sandbox: string): Promise<void>;
  /** The container is leaving: the engine is about to take its link away. */
  onLeave?(endpoint: Endpoint): void;
  /** The rules were not what {@link rules} says, and are again: what came meanwhile is looked at anew. */
  onRules?(network: Network<O, F>, endpoints: readonly Endpoint[]): Promise<void>;
  /** Whether the container that joined has gone without a word: its sandbox is no more. */
  isGone?(endpoint: Endpoint): Promise<boolean>;
  /**
   * Links of the host that the network sits on, nearest first: whatever happens to one is a reason to look after the
   * network, and there are neighbours behind them. Absent: none.
   */
  parents?(network: Network<O, F>): string[];
  /** What keeps the network from working and no step can change, such as a parent without carrier, in one line. */
  trouble?(network: Network<O, F>): Promise<string | undefined>;
  /** The MAC that its containers have. Absent, or undefined: the one asked for, else one derived from the address. */
  mac?(network: Network<O, F>): Promise<string | undefined>;
  /** Every firewall rule that the plans above make. */
  rules(network: Network<O, F>, endpoints: readonly Endpoint[]): Rule[];
}

/** The families in which a network needs no gateway. */
export interface GatewayNeed {
  readonly skipIPv4: boolean;
  readonly skipIPv6: boolean;
}
