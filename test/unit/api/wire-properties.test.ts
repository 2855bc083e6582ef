import assert from "node:assert/strict";
import { isIPv6, isIP } from "node:net";
import fc from "fast-check";
import type * as z from "zod";
import * as wire from "../../../src/api/wire.ts";
import { reason } from "../../../src/errors.ts";
import {
  type Sample,
  type Shape,
  anything,
  changed,
  list,
  map,
  nullable,
  object,
  orEmpty,
  plain,
  scalar,
  turned,
  wrongFor,
} from "../../support/shapes.ts";

const RUNS = { numRuns: 100 };

const ipv4 = fc.ipV4();
/** Go, which engines are written in, writes no IPv6 address with dots. */
const ipv6 = fc.ipV6().filter((text) => !text.includes("."));

function isCidr(text: string): boolean {
  const [address = "", length = "", more] = text.split("/");
  const most = isIPv6(address) ? 128 : 32;
  return isIP(address) !== 0 && /^\d+$/.test(length) && Number(length) <= most && more === undefined;
}

const id = plain(
  "string",
  fc.oneof(fc.stringMatching(/^[0-9a-f]{64}$/), fc.stringMatching(/^[a-z0-9]{25}$/)),
  (text) => /^[a-z0-9]{12,64}$/.test(text),
  ["", "short", "../../etc/passwd", "A".repeat(64), "a".repeat(65), `${"a".repeat(63)}\n`],
);
const cidr = plain(
  "string",
  fc.oneof(
    fc.tuple(ipv4, fc.nat(32)).map((parts) => parts.join("/")),
    fc.tuple(ipv6, fc.nat(128)).map((parts) => parts.join("/")),
  ),
  isCidr,
  ["10.1.0.0", "10.1.0.0/33", "::/129", "/16", "10.1.0.0/16/8", "host/24", "10.1.0.0/16\n"],
);
const mac = plain(
  "string",
  fc.stringMatching(/^([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}$/),
  (text) => /^([0-9a-f]{2}:){5}[0-9a-f]{2}$/i.test(text),
  ["02:42", "02:42:0a:01:00:0g", "02-42-0a-01-00-02", "AhEiM0RV"],
);
const flag = plain("boolean", fc.boolean());
const text = plain("string", fc.string());

const pool = turned(
  object({ Pool: cidr }, { Gateway: cidr, AuxAddresses: nullable(map(cidr)) }),
  ({ Pool, Gateway, AuxAddresses }) => ({
    subnet: Pool,
    ...(Gateway === undefined ? {} : { gateway: Gateway }),
    aux: AuxAddresses ?? {},
  }),
  object({ subnet: cidr, aux: map(cidr) }, { gateway: cidr }).fits,
);

const networkOptions = nullable(
  object(
    {},
    {
      "com.docker.network.generic": nullable(map(text)),
      "com.docker.network.internal": flag,
    },
  ),
);

const port = (least: number) =>
  plain(
    "number",
    fc.integer({ min: least, max: 65_535 }),
    (number) => Number.isInteger(number) && number >= least && number <= 65_535,
    [least - 1, 65_536, 80.5],
  );
const protocol = scalar(
  "number",
  fc.constantFrom([6, "tcp"], [17, "udp"], [132, "sctp"]),
  () => true,
  [1, 0, -6, 6.5],
);
const hostIp = scalar(
  "string",
  fc.oneof(
    fc.constant(["", ""] as const),
    ipv4.map((address) => [address, address] as const),
    // The shortest form, by the URL standard.
    ipv6.map((address) => [address, new URL(`http://[${address}]`).hostname.slice(1, -1)] as const),
  ),
  (address) => address === "" || isIP(address) !== 0,
  ["host", "10.1.0.2/16", "[::1]", "10.1.0", " "],
);
const portMapping = turned(
  object({ Proto: protocol, Port: port(1), HostIP: hostIp, HostPort: port(0), HostPortEnd: port(0) }),
  ({ Proto, Port, HostIP, HostPort, HostPortEnd }) => ({
    protocol: Proto,
    containerPort: Port,
    hostAddress: HostIP,
    hostPort: HostPort,
    hostPortEnd: Math.max(Number(HostPort), Number(HostPortEnd)),
  }),
  (read) =>
    object({
      protocol: plain("string", fc.string(), (name) => ["tcp", "udp", "sctp"].includes(name)),
      containerPort: port(1),
      hostAddress: hostIp,
      hostPort: port(0),
      hostPortEnd: port(0),
    }).fits(read) && (read as { hostPort: number }).hostPort <= (read as { hostPortEnd: number }).hostPortEnd,
);

const endpoint = { NetworkID: id, EndpointID: id };

/** Every request that has a body. */
const REQUESTS: Readonly<Record<keyof typeof wire, Shape>> = {
  NetworkOnly: object({ NetworkID: id }),
  EndpointOnly: object(endpoint),
  GwAllocCheck: object({}, { Options: networkOptions }),
  CreateNetwork: object(
    { NetworkID: id },
    { Options: networkOptions, IPv4Data: nullable(list(pool)), IPv6Data: nullable(list(pool)) },
  ),
  CreateEndpoint: object(endpoint, {
    Interface: nullable(
      object({}, { Address: orEmpty(cidr), AddressIPv6: orEmpty(cidr), MacAddress: orEmpty(mac) }),
    ),
    Options: nullable(object({}, { "com.docker.network.endpoint.sysctls": nullable(text) })),
  }),
  Join: object({ ...endpoint, SandboxKey: plain("string", fc.string({ minLength: 1 }), Boolean, [""]) }),
  ProgramExternalConnectivity: object(endpoint, {
    Options: nullable(object({}, { "com.docker.network.portmap": nullable(list(portMapping)) })),
  }),
  AllocateNetwork: object({ NetworkID: id }, { Options: nullable(map(text)) }),
  Discovery: object({ DiscoveryType: plain("number", fc.integer()), DiscoveryData: anything }),
};

/** A request with something wrong at one place, and which that is. */
function spoiled({ sent, places }: Sample): fc.Arbitrary<{ request: unknown; field: string }> {
  return fc
    .constantFrom(...places)
    .chain((place) =>
      wrongFor(place).map((to) => ({ request: changed(sent, place.path, to), field: place.path.join(".") })),
    );
}

/** A request in which anything may be anywhere. */
function mangled({ sent, places }: Sample): fc.Arbitrary<unknown> {
  const change = fc.tuple(fc.constantFrom([], ...places.map(({ path }) => path)), fc.jsonValue());
  return fc
    .array(change, { minLength: 1, maxLength: 3 })
    .map((changes) => changes.reduce<unknown>((request, [path, to]) => changed(request, path, to), sent));
}

for (const [name, shape] of Object.entries(REQUESTS))
  describe(`wire.${name}`, () => {
    const schema: z.ZodType = wire[name as keyof typeof wire];

    it("reads what is well-formed, and nothing else that is in it", () => {
      fc.assert(
        fc.property(shape.samples, ({ sent, read }) => {
          const before = structuredClone(sent);
          assert.deepEqual(schema.parse(sent), read);
          assert.deepEqual(sent, before, "it was changed");
          assert.ok(shape.fits(read));
        }),
        RUNS,
      );
    });

    it("refuses it if any one field is wrong or missing, in one line that names the field", () => {
      fc.assert(
        fc.property(shape.samples.chain(spoiled), ({ request, field }) => {
          const { error } = schema.safeParse(request);
          assert.ok(error, "it was read");
          for (const { path, message } of error.issues) {
            assert.equal(path.join("."), field);
            assert.match(reason(message), /^[^\n]+$/);
          }
        }),
        RUNS,
      );
    });

    it("refuses any other JSON or reads it as what it has to be", () => {
      fc.assert(
        fc.property(fc.oneof(shape.samples.chain(mangled), fc.jsonValue()), (request) => {
          const { success, data } = schema.safeParse(request);
          assert.ok(!success || shape.fits(data), JSON.stringify(data));
        }),
        RUNS,
      );
    });
  });
