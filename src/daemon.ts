import { setFlagsFromString } from "node:v8";
import type { Logger } from "pino";
import { adminRoutes } from "./api/admin.ts";
import { listen } from "./api/listen.ts";
import { networkDriver } from "./api/network-driver.ts";
import { createServer } from "./api/server.ts";
import { createBackends } from "./backends/index.ts";
import { Publisher } from "./backends/publisher.ts";
import type { Config } from "./config.ts";
import { EngineBridges } from "./docker/bridges.ts";
import { CatchUp } from "./docker/catch-up.ts";
import { EngineWatch } from "./docker/engine-watch.ts";
import { Engine } from "./docker/engine.ts";
import { Driver } from "./driver.ts";
import { Firewall } from "./firewall/firewall.ts";
import { Firewalld } from "./firewall/firewalld/firewalld.ts";
import { Host } from "./kernel/host.ts";
import { takeNamespace } from "./kernel/namespace-lock.ts";
import { tellReady } from "./kernel/service-manager.ts";
import { openLog } from "./log.ts";
import { Announcer } from "./reconcile/announcer.ts";
import { Reconciler } from "./reconcile/reconciler.ts";
import { DirectoryLock } from "./store/directory-lock.ts";
import { currentBoot } from "./store/state-directory.ts";
import { State } from "./store/state.ts";
import { Store } from "./store/store.ts";

const V8_FLAGS = [
  // Else garbage grows to several times what is in use: 200 MB after a thousand containers, not 130.
  "--heap-growing-percent=40",
  "--semi-space-growth-factor=1",
  // Most daemons are asked a few times a day, so no function is ever compiled but by what V8 does at the first calls:
  // these take a quarter off the first hundred requests, for 5 MB.
  "--always-sparkplug",
  "--no-lazy-feedback-allocation",
];

/** Builds everything, listens, and shuts down when told to. Networks go on working without the daemon. */
export async function daemon(config: Config): Promise<void> {
  for (const flag of V8_FLAGS) setFlagsFromString(flag);
  const log = openLog(config.logLevel);
  const lock = new DirectoryLock(config.stateDir);
  const leave = takeNamespace();
  const { firewall, driver, state, engine, companions, reconciler, watch, close } = build(config, lock, log);
  // Before the first change to the rules, which would open what was closed. Ports are taken while programs are waited for.
  await Promise.all([firewall.mustNotMix(), companions.onBridge(), driver.ports.reserve()]);
  const server = await listen(
    createServer(networkDriver(driver, reconciler), log, adminRoutes(state, reconciler.health, engine)),
    config.socket,
    log,
  );
  const started = reconciler.start().then(() => {
    watch.start();
  });
  const stop = async (signal: string) => {
    log.info({ signal }, "stopping");
    await server.close();
    engine.close();
    await started;
    await watch.stop();
    await reconciler.stop();
    await close();
    leave();
    lock.release();
    log.info("stopped");
  };
  let stopping: Promise<void> | undefined;
  const onSignal = (signal: string) => {
    stopping ??= stop(signal);
  };
  for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"]) process.once(signal, onSignal);
  // Node would open its debugger, to whoever is on this machine.
  process.on("SIGUSR1", () => undefined);
  log.info({ socket: server.path, networks: state.networks().length }, "listening");
  try {
    tellReady();
  } catch (error) {
    // It may have been meant for another program, which started this one (NOTES, sd_notify(3)).
    log.warn({ err: error }, "the service manager could not be told that this is ready");
  }
  await started;
}

/** Everything but the server, and what closes it. */
function build(config: Config, lock: DirectoryLock, log: Logger) {
  const store = new Store(config.stateDir, currentBoot(), lock);
  const state = new State(store);
  const host = new Host((error) => {
    log.error({ err: error }, "links could not be deleted; will try again");
  });
  const firewall = new Firewall(new Firewalld(log, config.systemBus));
  const engine = new Engine(config.dockerSocket);
  const publisher = new Publisher(host, firewall);
  const backends = createBackends(host, firewall, publisher, config.publish, state, engine);
  const driver = new Driver(state, backends, engine, log);
  const announcer = new Announcer(engine, log);
  const bridges = new EngineBridges(host, engine, {
    kept: firewall.engineBridges.bind(firewall),
    isUsed: (bridge) => state.networks().some((network) => driver.parents(network).includes(bridge)),
  });
  const companions = {
    onBridge: async () => {
      firewall.setEngineBridges(await bridges.list());
    },
    askForBridges: bridges.ask.bind(bridges),
    engineNetworks: () =>
      engine.inventory().then(
        ({ networks }) => networks,
        () => undefined,
      ),
    onMoved: announcer.moved.bind(announcer),
  };
  const reconciler = new Reconciler(driver, state, host, firewall, companions, log);
  const catchUp = new CatchUp(engine, driver, state, log);
  const compare = async (end: AbortSignal) => {
    const again = await catchUp.run(end);
    await firewall.forwarding.onEngine();
    return again;
  };
  const tellOfEngine = (trouble: string) => {
    reconciler.health.report("engine", trouble);
  };
  const watch = new EngineWatch(engine, compare, tellOfEngine, log);
  const close = async () => {
    announcer.stop();
    await store.close();
    firewall.close();
    publisher.close();
    await host.close();
  };
  return { firewall, driver, state, engine, companions, reconciler, watch, close };
}
