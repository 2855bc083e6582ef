import assert from "node:assert/strict";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { KernelError } from "../../../../src/errors.ts";
import { Conversation } from "../../../../src/kernel/iptables/conversation.ts";
import { StoppedClock } from "../../../support/clock.ts";
import { withoutDescriptors } from "../../../support/descriptors.ts";

const DONE = "# done";

describe("Conversation", () => {
  let conversation: Conversation | undefined;
  afterEach(() => conversation?.close());

  function converse(...command: [string, ...string[]]): Conversation {
    conversation = new Conversation("sh", command, DONE);
    return conversation;
  }

  it("answers each question with what the program prints, in the order they were asked", async () => {
    const shell = converse("sh");
    const answers = [1, 2, 3].map((number) => shell.ask(`echo ${number}; echo "${DONE}"\n`));
    assert.deepEqual(await Promise.all(answers), ["1\n", "2\n", "3\n"]);
  });

  it("rejects with the program's complaint when it ends, and starts it again for the next question", async () => {
    const shell = converse("sh");
    await assert.rejects(shell.ask("echo no >&2; exit 1\n"), refusal("sh: no"));
    assert.equal(await shell.ask(`echo "${DONE}"\n`), "");
  });

  // The second is iptables-restore's of nf_tables, the third that of iptables-legacy.
  it("says in one line what the program complained of, whichever line that is on", async () => {
    for (const [complaint, message] of [
      ["\nno\nTry again", "no"],
      [
        "iptables-restore v1.8.9 (nf_tables): \nline 4: CHAIN_DEL failed (Device or resource busy): chain X1",
        "iptables-restore v1.8.9 (nf_tables): line 4: CHAIN_DEL failed (Device or resource busy): chain X1",
      ],
      [
        "iptables-restore v1.8.9 (legacy): Couldn't load target `X':No such file\n\nError occurred at line: 3",
        "iptables-restore v1.8.9 (legacy): Couldn't load target `X':No such file",
      ],
    ] as const)
      await assert.rejects(
        converse("sh").ask(`cat >&2 <<'END'\n${complaint}\nEND\nexit 1\n`),
        refusal(`sh: ${message}`),
      );
  });

  it("rejects while there are no descriptors for it, and starts it as soon as there are", async () => {
    const shell = converse("sh");
    const answers = withoutDescriptors(() => [shell.ask("one"), shell.ask(`echo two; echo "${DONE}"\n`)]);
    const [first, second] = await Promise.allSettled(answers);
    assert.match(String(first?.status === "rejected" && first.reason), /sh: spawn sh EMFILE$/);
    assert.deepEqual(second, { status: "fulfilled", value: "two\n" });
  });

  it("rejects each question while the program is not there, and starts it as soon as it is", async () => {
    const directory = mkdtempSync(join(tmpdir(), "tsnet-test-"));
    try {
      const program = join(directory, "program");
      const later = converse(program);
      for (const result of await Promise.allSettled([later.ask("one"), later.ask("two")]))
        assert.match(String(result.status === "rejected" && result.reason), /sh: spawn \S+ ENOENT$/);
      writeFileSync(program, `#!/bin/sh\necho here\necho "${DONE}"\ncat >/dev/null\n`);
      chmodSync(program, 0o755);
      assert.equal(await later.ask("three"), "here\n");
    } finally {
      rmSync(directory, { recursive: true });
    }
  });

  it("ends a program that does not answer, with what that has started, and starts it again", async () => {
    const shell = converse("sh");
    const clock = new StoppedClock();
    try {
      await shell.ask(`echo "${DONE}"\n`);
      const [first, second] = [shell.ask("sleep 600\n"), shell.ask(`echo two; echo "${DONE}"\n`)];
      const refused = assert.rejects(first, refusal("sh: no answer within 30 s"));
      await clock.pass(29_999);
      const { pid } = shell;
      await clock.pass(1);
      await refused;
      assert.notEqual(shell.pid, pid);
      assert.equal(await second, "two\n");
    } finally {
      clock.release();
    }
  });

  it("asks another program once one is ended, though that had just answered", async () => {
    const shell = converse("sh");
    const clock = new StoppedClock();
    try {
      await shell.ask(`echo "${DONE}"\n`);
      const [first, second] = [
        shell.ask(`sleep 0.2; echo "${DONE}"\n`),
        shell.ask(`echo two; echo "${DONE}"\n`),
      ];
      const ended = first.catch(() => "");
      // The answer is in the pipe, and nobody here has read it.
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 500);
      await clock.pass(30_000);
      await ended;
      assert.equal(await second, "two\n");
    } finally {
      clock.release();
    }
  });

  // As without memory, Node throws instead of telling later: an argument has at most 128 KiB (execve(2)).
  it("rejects each question where the program cannot even be tried", async () => {
    const shell = converse("sh", "x".repeat(1 << 18));
    const results = await Promise.allSettled([shell.ask("one"), shell.ask("two")]);
    results.push(...(await Promise.allSettled([shell.ask("three")])));
    for (const result of results)
      assert.match(String(result.status === "rejected" && result.reason), /sh: spawn E2BIG$/);
  });
});

function refusal(message: string): (error: unknown) => boolean {
  return (error) => error instanceof KernelError && error.message === message;
}
