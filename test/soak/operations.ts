import { BOX } from "../lab/image.ts";
import type { Random } from "./random.ts";
import { type Container, LABELS, type Plan, type World } from "./world.ts";

/** Arguments of `docker`, and what nothing else may touch meanwhile: names of a container or a network. */
export interface Operation {
  readonly args: readonly string[];
  /** Arguments of a second `docker`, which returns once all is done. */
  readonly then?: readonly string[];
  /** Arguments of a `docker` that takes back what an engine may have left half done. */
  readonly undo?: readonly string[];
  /** What it changes. */
  readonly alone: readonly string[];
  /** Networks that must stay while it is under way. */
  readonly uses: readonly string[];
}

/** As many at most; with more a round takes longer and finds no more. */
const CONTAINERS = 8;
const FIRST_PORT = 8001;

/**
 * Serves its own files by HTTP, its host name among them, and ends at once when it is stopped. Without a second for that it is killed as it
 * ends, and 28.5 may take the end for that of the same container started again.
 */
const COMMAND = ["sh", "-c", "trap exit TERM; httpd -h / -p 80; sleep infinity & wait"];

/** One that can be done now; undefined if the kind that was drawn has nothing to work on. */
export function draw(random: Random, world: World, plans: readonly Plan[]): Operation | undefined {
  return random.pick(KINDS)?.(random, world, plans);
}

/** Whether two can be under way at the same time with an outcome that is known. */
export function compatible(one: Operation, other: Operation): boolean {
  const touches = ({ alone, uses }: Operation) => [...alone, ...uses];
  return (
    !one.alone.some((name) => touches(other).includes(name)) &&
    !other.alone.some((name) => touches(one).includes(name))
  );
}

type Kind = (random: Random, world: World, plans: readonly Plan[]) => Operation | undefined;

const createNetwork: Kind = (random, { networks }, plans) => {
  const plan = random.pick(plans.filter(({ name }) => !networks.includes(name)));
  if (!plan) return undefined;
  const args = ["network", "create", "-d", "tsnet", "-o", `backend=${plan.backend}`, ...plan.args, plan.name];
  return { args, alone: [plan.name], uses: [] };
};

const removeNetwork: Kind = (random, { networks, containers }) => {
  const empty = networks.filter(
    (name) => !containers.some((container) => container.home === name || name in container.networks),
  );
  const name = random.pick(empty);
  return name ? { args: ["network", "rm", name], alone: [name], uses: [] } : undefined;
};

const runContainer: Kind = (random, { networks, containers }) => {
  const network = random.pick(networks);
  const number = Array.from({ length: CONTAINERS }, (_, index) => index).find(
    (index) => !containers.some(({ name }) => name === nameOf(index)),
  );
  if (!network || number === undefined) return undefined;
  const port = String(FIRST_PORT + number);
  const options = [
    ...(random.next() < 0.5 ? ["--restart", "always", "--label", LABELS.always] : []),
    ...(random.next() < 0.6 ? ["-p", `${port}:80`, "--label", `${LABELS.port}=${port}`] : []),
  ];
  const name = nameOf(number);
  return {
    args: ["run", "-d", "--name", name, "--network", network, ...options, BOX, ...COMMAND],
    alone: [name],
    uses: [network],
  };
};

const connect: Kind = (random, { networks, containers }) => {
  const container = random.pick(containers.filter(isWhole));
  const network = random.pick(networks.filter((name) => container && !(name in container.networks)));
  if (!container || !network) return undefined;
  return {
    args: ["network", "connect", network, container.name],
    undo: ["network", "disconnect", "-f", network, container.name],
    alone: [container.name],
    uses: [network, ...Object.keys(container.networks)],
  };
};

/** The last one stays: nothing could be asked of a container without any. */
const disconnect: Kind = (random, { containers }) => {
  const container = random.pick(
    containers.filter((one) => isWhole(one) && Object.keys(one.networks).length > 1),
  );
  const network = container && random.pick(Object.keys(container.networks));
  if (!network) return undefined;
  return {
    args: ["network", "disconnect", network, container.name],
    alone: [container.name],
    uses: Object.keys(container.networks),
  };
};

const onContainer =
  (args: readonly string[], suits: (container: Container) => boolean = isWhole): Kind =>
  (random, { containers }) => {
    const container = random.pick(containers.filter(suits));
    if (!container) return undefined;
    const { name, home, networks } = container;
    return { args: [...args, name], alone: [name], uses: [home, ...Object.keys(networks)] };
  };

/** The engine has answered before the container has ended. */
const kill: Kind = (...drawn) => {
  const operation = onContainer(["kill"], ({ runs }) => runs)(...drawn);
  return operation && { ...operation, then: ["wait", ...operation.alone] };
};

const KINDS: readonly Kind[] = [
  createNetwork,
  createNetwork,
  removeNetwork,
  runContainer,
  runContainer,
  runContainer,
  connect,
  connect,
  disconnect,
  onContainer(["restart", "-t", "1"]),
  kill,
  onContainer(["stop", "-t", "1"], ({ runs }) => runs),
  onContainer(["start"], (one) => isWhole(one) && !one.runs),
  onContainer(["start"], (one) => isWhole(one) && !one.runs),
  onContainer(["rm", "-f"], () => true),
];

function isWhole({ halfRemoved }: Container): boolean {
  return !halfRemoved;
}

/** With a letter that no id has: the engine takes a name that is gone for the beginning of one. */
function nameOf(number: number): string {
  return `box${String(number + 1)}`;
}
