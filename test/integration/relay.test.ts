import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { type Socket as DatagramSocket, createSocket } from "node:dgram";
import { once } from "node:events";
import { readlinkSync } from "node:fs";
import { type AddressInfo, connect, createServer } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { Reservations } from "../../src/kernel/reservations.ts";
import { Relay } from "../../src/relay/relay.ts";
import { run } from "../lab/command.ts";
import { withoutDescriptors } from "../support/descriptors.ts";
import { ip, mustBeIsolated } from "../support/isolated.ts";
import { until } from "../support/until.ts";

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
  afterEach(async () => {
    for (const end of ends.reverse()) await end();
  });
  after(() => {
    relay.close();
    reservations.close();
  });

  /** Serves a port on `::1` or everywhere for what listens on a port of 127.0.0.1, or of another address. */
  function serve(
    protocol: "tcp" | "udp",
    { port }: AddressInfo,
    address: "::1" | "::" = "::1",
    container = "127.0.0.1",
    at = PORT,
  ): void {
    const key = `${protocol} ${at}`;
    const published = { protocol, address, port: at } as const;
    const clients = [{ from: "::/0" }];
    reservations.take("the test", published, clients);
    ends.push(() => {
      relay.stop(key);
      reservations.release("the test", published);
    });
    const target = { address: container, port };
    const everywhere = address === "::";
    const relayed = {
      protocol,
      family: 6,
      host: published,
      everywhere,
      clients,
      target,
    } as const;
    relay.start(key, reservations.socketOf(published) ?? assert.fail(), relayed);
  }

  /** A container that tells who asks it, with the port that it sees them at. */
  async function container(onAsked: () => void = () => undefined): Promise<AddressInfo> {
    const socket = createSocket("udp4", (_, { port, address }) => {
      onAsked();
      socket.send(String(port), port, address);
    });
    ends.push(() => socket.close());
    await new Promise<void>((resolve) => socket.bind(0, "127.0.0.1", resolve));
    return socket.address();
  }

  it("has so many sockets for UDP and no more; whoever was silent longest is forgotten for another", async () => {
    serve("udp", await container());
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

  it("answers a client of UDP with the address that it asked, also one that the host has not had for long", async () => {
    const neighbour = spawn("unshare", ["--net", "sleep", "60"]);
    ends.push(() => neighbour.kill());
    await until("the neighbour is there", () => Promise.resolve(isApart(neighbour.pid)));
    const inside = ["nsenter", `--net=/proc/${String(neighbour.pid)}/ns/net`];
    await ip(`link add wire0 type veth peer name wire1 netns ${String(neighbour.pid)}`, "link set wire0 up");
    ends.push(() => ip("link delete wire0"));
    await run([...inside, "ip", "link", "set", "wire1", "up"]);
    await run([...inside, "ip", "address", "add", "fd01::9/64", "dev", "wire1", "nodad"]);
    for (const address of ["fd01::1", "fd01::2"]) await ip(`address add ${address}/64 dev wire0 nodad`);
    const asks = async (address: string) =>
      (await run([...inside, process.execPath, "-e", CLIENT, address, String(PORT)])).stdout;
    serve("udp", await container(), "::");
    for (const address of ["fd01::1", "fd01::2"]) assert.match(await asks(address), /^[0-9]+$/, address);
    await ip("address add fd01::3/64 dev wire0 nodad");
    // The first one to ask there may be answered with another; then it is known, within a second.
    await until("it is answered with the new one, too", async () => /^[0-9]+$/.test(await asks("fd01::3")));
    // As of an address that is used for a day (RFC 8981).
    await ip("address del fd01::3/64 dev wire0", "address add fd01::4/64 dev wire0 nodad");
    await until("the socket of the old one is given back", async () => {
      await asks("fd01::4");
      return !(await lines("ss", "-Hnlu")).some((line) => line.includes("fd01::3"));
    });
  });

  it("goes on after a datagram from port 0, and after one from an address with a zone", async () => {
    const target = createSocket("udp6", (_, { port, address }) => {
      target.send(String(port), port, address);
    });
    ends.push(() => target.close());
    await new Promise<void>((resolve) => target.bind(0, "::1", resolve));
    serve("udp", target.address(), "::1", "::1");
    const client = createSocket("udp6");
    ends.push(() => client.close());
    const heard: string[] = [];
    client.on("message", (message) => heard.push(message.toString()));
    client.send("", PORT, "::1");
    await until("it is answered", () => Promise.resolve(heard.length === 1));
    await ip("link add wire0 type veth peer name wire1", "link set wire0 up", "link set wire1 up");
    ends.push(() => ip("link delete wire0"));
    await ip("address add fe80::1/64 dev wire0 nodad", "address add fe80::2/64 dev wire1 nodad");
    // From the container's port, but another address, to the socket that stands for the client.
    const stranger = createSocket("udp6");
    ends.push(() => stranger.close());
    await new Promise<void>((resolve) => stranger.bind(target.address().port, "fe80::2%wire1", resolve));
    stranger.send("from a stranger", Number(heard[0]), "fe80::1%wire0");
    await run(["perl", "-MSocket=:all", "-e", NOBODY, String(PORT)]);
    client.send("", PORT, "::1");
    await until("it is answered again", () => Promise.resolve(heard.length > 1));
    assert.deepEqual(heard, [heard[0], heard[0]]);
  });

  it("does not speak with itself or another relay where somebody sends in its name", async () => {
    let asked = 0;
    const talker = await container(() => (asked += 1));
    serve("udp", talker);
    serve("udp", talker, "::1", "127.0.0.1", PORT + 1);
    serve("udp", talker, "::", "127.0.0.1", PORT + 2);
    for (const relays of [PORT, PORT + 1, PORT + 2])
      await run(["perl", "-MSocket=:all", "-e", NOBODY, String(PORT), String(relays)]);
    await sleep(300);
    assert.equal(asked, 0);
    await run(["perl", "-MSocket=:all", "-e", NOBODY, String(PORT), String(PORT + 3)]);
    await until("another one is answered", () => Promise.resolve(asked === 1));
  });

  it("does not speak with another relay in the name of an address whose link is down, either", async () => {
    let asked = 0;
    const talker = await container(() => (asked += 1));
    for (const at of [PORT, PORT + 1]) serve("udp", talker, "::", "127.0.0.1", at);
    await ip("link add wire0 type bridge", "address add fd05::1/64 dev wire0 nodad");
    ends.push(() => ip("link delete wire0"));
    // The host's addresses are looked at once a second.
    await sleep(1000);
    await run(["perl", "-MSocket=:all", "-e", NOBODY, String(PORT), String(PORT + 1), "fd05::1"]);
    await sleep(300);
    assert.equal(asked, 0);
  });

  it("carries to a client of UDP what its container says, and nobody else", async () => {
    serve("udp", await container());
    const client = createSocket("udp6");
    const other = createSocket("udp4");
    ends.push(
      () => client.close(),
      () => other.close(),
    );
    const heard: string[] = [];
    client.on("message", (message) => heard.push(message.toString()));
    client.send("", PORT, "::1");
    await until("it is answered", () => Promise.resolve(heard.length === 1));
    other.send("from somebody", Number(heard[0]), "127.0.0.1");
    await new Promise((resolve) => other.once("listening", resolve));
    client.send("", PORT, "::1");
    await until("it is answered again", () => Promise.resolve(heard.length > 1));
    assert.deepEqual(heard, [heard[0], heard[0]]);
  });

  for (const protocol of ["tcp", "udp"] as const)
    it(`says so when it has no descriptor left to serve a port of ${protocol} with, and serves nothing else`, async () => {
      const container = { address: "127.0.0.1", family: "IPv4", port: 9 };
      reservations.take("the test", { protocol, address: "::1", port: PORT }, []);
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

/** Prints what an address answers to a datagram, within a second. */
const CLIENT = `
  const socket = require("node:dgram").createSocket("udp6", (answer) => { process.stdout.write(answer); socket.close(); });
  socket.connect(Number(process.argv[2]), process.argv[1], () => socket.send("?"));
  setTimeout(() => process.exit(), 1000).unref();`;

/** Sends a datagram to a port of ::1 from another, or from port 0. */
const NOBODY = `
  socket(my $raw, AF_INET6, SOCK_RAW, 17) or die $!;
  setsockopt($raw, 41, 7, pack("i", 6)) or die $!; # IPV6_CHECKSUM
  send($raw, pack("nnnn", $ARGV[1] // 0, $ARGV[0], 9, 0) . "?", 0, pack_sockaddr_in6(0, inet_pton(AF_INET6, $ARGV[2] // "::1"))) or die $!;`;

/** Whether a process has a network namespace of its own by now. */
function isApart(pid: number | undefined): boolean {
  return readlinkSync(`/proc/${String(pid)}/ns/net`) !== readlinkSync("/proc/self/ns/net");
}

async function lines(...command: readonly string[]): Promise<string[]> {
  return (await run(command)).stdout.split("\n").filter(Boolean);
}
