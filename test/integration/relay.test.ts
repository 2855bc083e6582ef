import assert from "node:assert/strict";
import { type Socket as DatagramSocket, createSocket } from "node:dgram";
import { once } from "node:events";
import { type AddressInfo, connect, createServer } from "node:net";
import { Relay } from "../../src/kernel/relay.ts";
import { Reservations } from "../../src/kernel/reservations.ts";
import { run } from "../lab/command.ts";
import { withoutDescriptors } from "../support/descriptors.ts";
import { mustBeIsolated } from "../support/isolated.ts";

/** Clients of a UDP port that a relay knows at a time. */
const MOST_CLIENTS = 1024;

const PORT = 5300;

describe("Relay", () => {
  const relay = new Relay();
  const reservations = new Reservations();
  /** Closes what a test has opened. */
  let ends: (() => unknown)[];

  before(mustBeIsolated);
  beforeEach(() => {
    ends = [];
  });
  afterEach(() => {
    for (const end of ends) end();
  });
  after(() => {
    relay.close();
    reservations.close();
  });

  /** Serves the port on `::1` for what listens on a port of 127.0.0.1. */
  function serve(protocol: "tcp" | "udp", { port }: AddressInfo): void {
    const published = { protocol, address: "::1", port: PORT } as const;
    reservations.take("the test", published);
    ends.push(() => {
      relay.stop(protocol);
    });
    const target = { address: "127.0.0.1", port };
    const relayed = { protocol, family: 6, clients: ["::/0"], target } as const;
    relay.start(protocol, reservations.socketOf(published) ?? assert.fail(), relayed);
  }

  it("has so many sockets for UDP and no more; whoever was silent longest is forgotten for another", async () => {
    const container = createSocket("udp4", (_, { port, address }) => {
      container.send(String(port), port, address);
    });
    ends.push(() => container.close());
    await new Promise<void>((resolve) => container.bind(0, "127.0.0.1", resolve));
    serve("udp", container.address());
    const clients = Array.from({ length: MOST_CLIENTS + 10 }, () => createSocket("udp6"));
    ends.push(...clients.map((client) => () => client.close()));
    /** The port that the container sees a client at. */
    const ask = async (client: DatagramSocket) => {
      client.send("", PORT, "::1");
      const [answer] = (await once(client, "message")) as [Buffer];
      return answer.toString();
    };
    const seenAt: string[] = [];
    const [talkative = assert.fail(), silent = assert.fail()] = clients;
    for (const client of clients) {
      seenAt.push(await ask(client));
      assert.equal(await ask(talkative), seenAt[0]);
    }
    // The container's own is one more.
    assert.equal((await lines("ss", "-H4una")).length, MOST_CLIENTS + 1);
    assert.notEqual(await ask(silent), seenAt[1]);
  });

  for (const protocol of ["tcp", "udp"] as const)
    it(`says so when it has no descriptor left to serve a port of ${protocol} with, and serves nothing else`, async () => {
      const container = { address: "127.0.0.1", family: "IPv4", port: 9 };
      reservations.take("the test", { protocol, address: "::1", port: PORT });
      const sockets = await lines("ss", "-Hlntu");
      assert.throws(
        () => {
          withoutDescriptors(() => {
            serve(protocol, container);
          });
        },
        { message: /^fcntl F_DUPFD_CLOEXEC: / },
      );
      assert.deepEqual(await lines("ss", "-Hlntu"), sockets);
    });

  it("asks both ends of a TCP connection whether they are there still", async () => {
    const container = createServer();
    container.listen(0, "127.0.0.1");
    await once(container, "listening");
    const accepted = once(container, "connection");
    serve("tcp", container.address() as AddressInfo);
    const client = connect(PORT, "::1");
    ends.push(
      () => client.destroy(),
      () => container.close(),
    );
    await accepted;
    const { port } = container.address() as AddressInfo;
    for (const half of [`sport = :${PORT}`, `dport = :${port}`])
      assert.match((await lines("ss", "-Htno", "state", "established", half)).join(), /timer:\(keepalive,/);
  });
});

async function lines(...command: readonly string[]): Promise<string[]> {
  return (await run(command)).stdout.split("\n").filter(Boolean);
}
