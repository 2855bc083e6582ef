import assert from "node:assert/strict";
import { run } from "../lab/command.ts";
import { FakeSandbox } from "../support/fake-sandbox.ts";
import { mustBeIsolated, plugWire, readSysctl, setSysctl, wipe } from "../support/isolated.ts";
import { NETWORKS } from "../support/networks.ts";
import { Site } from "../support/site.ts";
import { until } from "../support/until.ts";

const FORWARDING = "net/ipv6/conf/all/forwarding";
const ACCEPT_RA = "net/ipv6/conf/wire0/accept_ra";

describe("a host whose way out is what a router tells it", () => {
  const network = {
    ...(NETWORKS["IPv6 only"] ?? assert.fail()),
    ipv6: [{ subnet: "fd02::/64", gateway: "fd02::1/64", aux: {} }],
  };
  let site: Site;
  let router: FakeSandbox;

  before(mustBeIsolated);
  beforeEach(async () => {
    await setSysctl(FORWARDING, "0");
    await plugWire();
    router = await FakeSandbox.start();
    await run(["ip", "link", "set", "wire1", "netns", String(router.pid)]);
    // It is to speak at once (RFC 4862, section 5.4).
    await inRouter("sysctl", "-q", "net.ipv6.conf.wire1.accept_dad=0");
    await router.ip("link set wire1 up");
    site = new Site();
  });
  afterEach(async () => {
    await site.stop();
    await router.end();
    await wipe();
  });

  it("keeps it when it begins to forward for containers, and hears of the next", async () => {
    await advertised();
    await site.driver.createNetwork(network);
    assert.equal(readSysctl(FORWARDING), "1");
    assert.equal((await waysOut()).length, 1);
    await run(["ip", "-6", "route", "flush", "proto", "ra"]);
    await advertised();
  });

  it("hears of the first one although it forwards already", async () => {
    await site.driver.createNetwork(network);
    await advertised();
  });

  it("hears none on a link that is not to listen, nor where it was forwarding before", async () => {
    await setSysctl(ACCEPT_RA, "0");
    await site.driver.createNetwork(network);
    assert.equal(readSysctl(ACCEPT_RA), "0");
    await setSysctl(ACCEPT_RA, "1");
    await site.reconcile();
    assert.equal(readSysctl(ACCEPT_RA), "1");
  });

  /** The router says that it is one until the host has heard it. */
  async function advertised(): Promise<void> {
    const heard = async () => {
      await inRouter("perl", "-e", ADVERTISE, "wire1");
      return (await waysOut()).length === 1;
    };
    await until("a default route by the router's word", heard, { everyMs: 100 });
  }

  async function inRouter(...argv: readonly string[]): Promise<void> {
    await run(["nsenter", `--net=${router.path}`, ...argv]);
  }
});

async function waysOut(): Promise<string[]> {
  const { stdout } = await run(["ip", "-6", "route", "show", "default", "proto", "ra"]);
  return stdout.split("\n").filter(Boolean);
}

/** Sends a router advertisement (RFC 4861, section 4.2) with a lifetime of 1800 s to all nodes; the kernel adds the checksum. */
const ADVERTISE = `
  socket(my $socket, 10, 3, 58) or die $!;
  my $request = pack("a16 x24", $ARGV[0]);
  ioctl($socket, 0x8933, $request) or die $!; # SIOCGIFINDEX
  my $index = unpack("x16 i", $request);
  setsockopt($socket, 41, 18, pack("i", 255)) or die $!; # IPV6_MULTICAST_HOPS
  my $everybody = pack("S n N H32 L", 10, 0, 0, "ff02" . "0" x 27 . "1", $index);
  send($socket, pack("C C n C C n N N", 134, 0, 0, 64, 0, 1800, 0, 0), 0, $everybody) or die $!;`;
