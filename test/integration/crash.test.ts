import assert from "node:assert/strict";
import { mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { run } from "../lab/command.ts";
import { FakeSandbox } from "../support/fake-sandbox.ts";
import { type HostState, hostState, mustBeIsolated, plugWire, setSysctl, wipe } from "../support/isolated.ts";
import { endpointOf } from "../support/networks.ts";
import { compile } from "./crash/compile.ts";
import {
  KINDS,
  type Kind,
  OPERATIONS,
  type Operation,
  PARENT,
  SANDBOX_VARIABLE,
} from "./crash/operations.ts";
import { Daemon } from "./crash/process.ts";

/** Operations that were done before, and the one that is killed. */
interface Case {
  readonly earlier: readonly Operation[];
  readonly operation: Operation;
}

/** What makes a network that is in use, for each kind: only bridges publish ports. */
const IN_USE: Readonly<Record<Kind, readonly Operation[]>> = {
  bridge: ["create network", "create endpoint", "join", "publish"],
  "macvlan with host access": ["create network", "create endpoint", "join"],
  "macvlan without a parent": ["create network", "create endpoint", "join"],
  "macvlan in a sandbox": ["create network", "create endpoint", "join"],
};

/** Engines leave some out: the newest do not revoke, and a killed one asks for neither Leave nor DeleteEndpoint. */
const CASES: Readonly<Record<Kind, readonly Case[]>> = {
  bridge: [
    ...inOrder(IN_USE.bridge),
    ...inOrder(["publish others", "revoke"], IN_USE.bridge),
    { operation: "leave", earlier: [...IN_USE.bridge, "publish others", "revoke"] },
    { operation: "delete endpoint", earlier: IN_USE.bridge },
    { operation: "delete network", earlier: IN_USE.bridge },
  ],
  "macvlan with host access": [
    ...inOrder(IN_USE["macvlan with host access"]),
    { operation: "delete endpoint", earlier: [...IN_USE["macvlan with host access"], "leave"] },
    { operation: "delete network", earlier: IN_USE["macvlan with host access"] },
  ],
  // What differs from the one with a parent is the parent.
  "macvlan without a parent": [
    { operation: "create network", earlier: [] },
    { operation: "delete network", earlier: IN_USE["macvlan without a parent"] },
  ],
  // The engine has moved the link, and does not give it back when it has been killed.
  "macvlan in a sandbox": (["leave", "delete endpoint", "delete network"] as const).map((operation) => ({
    operation,
    earlier: IN_USE["macvlan in a sandbox"],
  })),
};

/** What an engine asks for when it gives a container and its network up; all of it may be gone already. */
const GIVE_UP: readonly Operation[] = ["leave", "delete endpoint", "delete network"];

/** What changes nothing: it goes with its link, or stays. */
const NOTHING = /^revert (sysctl|address of|link \S+ up)/;

/** How often a daemon is killed at some instant. */
const INSTANTS: Readonly<Partial<Record<Kind, number>>> = {
  bridge: 15,
  "macvlan with host access": 10,
  "macvlan without a parent": 5,
};

describe("a daemon that is killed", () => {
  let directory: string;
  let program: string;
  let empty: Host;
  let daemon: Daemon;
  /** One that waits, its modules loaded, while another works. */
  let spare: Daemon;
  const daemons: Daemon[] = [];
  let sandbox: FakeSandbox | undefined;

  const start = () => {
    const started = new Daemon(program);
    daemons.push(started);
    return started;
  };
  const restart = async () => {
    daemon = spare;
    spare = start();
    await daemon.obey({ order: "open", directory: join(directory, "state") });
    await daemon.obey({ order: "reconcile" });
  };
  const perform = (kind: Kind, operations: readonly Operation[]) =>
    daemon.obey({ order: "perform", kind, operations });
  /** As an engine does, which moves the link once it has joined. */
  const prepare = async (kind: Kind, operations: readonly Operation[]) => {
    await perform(kind, operations);
    await sandbox?.take(endpointOf(KINDS[kind]), "eth0");
  };
  const everything = async (): Promise<Host> => ({ ...(await hostState()), inside: await sandbox?.links() });
  const giveUp = async (kind: Kind, when: string) => {
    const { records } = await perform(kind, GIVE_UP);
    assert.deepEqual(records, {}, `records after all was deleted, ${when}`);
    assert.deepEqual(await everything(), empty, `host after all was deleted, ${when}`);
  };

  before(async function () {
    this.timeout(120_000);
    mustBeIsolated();
    await setSysctl("net/ipv4/ip_forward", "1");
    await setSysctl("net/ipv6/conf/all/forwarding", "1");
    directory = mkdtempSync(join(tmpdir(), "tsnet-crash-"));
    program = compile(directory);
    process.env[SANDBOX_VARIABLE] = join(directory, "sandbox");
    spare = start();
  });
  beforeEach(() => restart());
  afterEach(() => daemon.kill());
  after(async () => {
    for (const started of daemons) await started.kill();
    await wipe();
    rmSync(directory, { recursive: true });
  });

  for (const kind of Object.keys(KINDS) as Kind[])
    describe(kind, () => {
      before(async () => {
        // The kinds have the same subnets, so the host's addresses in them are there while they are wanted.
        if ("parent" in KINDS[kind].options) await plugWire();
        if (kind === "macvlan in a sandbox") {
          sandbox = await FakeSandbox.start();
          symlinkSync(sandbox.path, process.env[SANDBOX_VARIABLE] ?? "");
        }
        empty = await everything();
      });
      after(async () => {
        await sandbox?.end();
        sandbox = undefined;
        await run(["ip", "link", "delete", PARENT], { allowFailure: true });
      });

      for (const { operation, earlier } of CASES[kind])
        it(`does or undoes "${operation}" when it starts again, whichever step was the last`, async function () {
          this.timeout(240_000);
          await prepare(kind, earlier);
          const complete = await perform(kind, [operation]);
          const host = await everything();
          await giveUp(kind, "nothing killed");
          const points = [
            0,
            ...complete.calls.flatMap((call, index) => (NOTHING.test(call) ? [] : [index + 1])),
          ];
          assert.ok(points.length > 1);

          for (const calls of points) {
            const when = `killed after "${complete.calls[calls - 1] ?? "nothing"}"`;
            for (const retries of [true, false]) {
              await prepare(kind, earlier);
              await daemon.die({ order: "perform", kind, operations: [operation], dieAfter: calls });
              await restart();
              if (retries) {
                const { records } = await perform(kind, [operation]);
                assert.deepEqual(records, complete.records, `records after a second request, ${when}`);
                assert.deepEqual(await everything(), host, `host after a second request, ${when}`);
              }
              await giveUp(kind, when);
            }
          }
        });

      const instants = INSTANTS[kind];
      if (instants === undefined) return;
      it("can go on from whatever it had done, at any instant", async function () {
        this.timeout(240_000);
        const start = performance.now();
        const complete = await perform(kind, IN_USE[kind]);
        const host = await everything();
        await perform(kind, ends(kind));
        const duration = performance.now() - start;

        for (let instant = 0; instant < instants; instant += 1) {
          const afterMs: number = (duration * instant) / instants;
          const dying = perform(kind, [...IN_USE[kind], ...ends(kind)]).catch(() => undefined);
          await sleep(afterMs);
          await daemon.kill();
          await dying;
          await restart();
          const when = `killed after ${afterMs} ms`;
          const { records } = await perform(kind, IN_USE[kind]);
          assert.deepEqual(records, complete.records, `records, ${when}`);
          assert.deepEqual(await everything(), host, `host, ${when}`);
          await giveUp(kind, when);
        }
      });
    });
});

/** Everything on the host and in the sandbox. */
interface Host extends HostState {
  /** Links in the sandbox, if there is one. */
  readonly inside: readonly string[] | undefined;
}

/** Each operation behind those before it. */
function inOrder(operations: readonly Operation[], before: readonly Operation[] = []): Case[] {
  return operations.map((operation, index) => ({
    operation,
    earlier: [...before, ...operations.slice(0, index)],
  }));
}

/** Whatever engines ask for after a network was in use. */
function ends(kind: Kind): Operation[] {
  return OPERATIONS.slice(OPERATIONS.indexOf(kind === "bridge" ? "publish others" : "leave"));
}
