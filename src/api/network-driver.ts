import type * as z from "zod";
import type { Driver } from "../driver.ts";
import type { JoinResponse } from "../model.ts";
import type { Reconciler } from "../reconcile/reconciler.ts";
import * as wire from "./wire.ts";

/** One method of the protocol: what it must be sent, and what it answers. */
export interface Method {
  /** Absent: the engine sends no body. */
  readonly request?: z.ZodType;
  readonly handle: (request: unknown) => unknown;
}

function method<S extends z.ZodType>(request: S, handle: (request: z.output<S>) => unknown): Method {
  return { request, handle: (value) => handle(value as z.output<S>) };
}

/** Who knows what is left on the host of a network that no record is of. */
type Orphans = Pick<Reconciler, "deleted">;

/** The methods of libnetwork's remote network driver, by path. */
export function networkDriver(driver: Driver, orphans: Orphans): Record<string, Method> {
  return { ...networkMethods(driver, orphans), ...endpointMethods(driver) };
}

function networkMethods(driver: Driver, orphans: Orphans): Record<string, Method> {
  return {
    "NetworkDriver.GetCapabilities": {
      handle: () => ({ Scope: "local", ConnectivityScope: "local", GwAllocChecker: true }),
    },
    "NetworkDriver.GwAllocCheck": method(wire.GwAllocCheck, ({ Options }) => {
      const need = driver.gatewayNeed(Options?.["com.docker.network.generic"] ?? {});
      return { SkipIPv4: need.skipIPv4, SkipIPv6: need.skipIPv6 };
    }),
    "NetworkDriver.AllocateNetwork": method(wire.AllocateNetwork, ({ Options }) => ({
      Options: Options ?? {},
    })),
    "NetworkDriver.FreeNetwork": method(wire.NetworkOnly, () => ({})),
    "NetworkDriver.CreateNetwork": method(wire.CreateNetwork, async (request) => {
      await driver.createNetwork({
        id: request.NetworkID,
        options: request.Options?.["com.docker.network.generic"] ?? {},
        internal: request.Options?.["com.docker.network.internal"] ?? false,
        ipv4: request.IPv4Data ?? [],
        ipv6: request.IPv6Data ?? [],
      });
      return {};
    }),
    "NetworkDriver.DeleteNetwork": method(wire.NetworkOnly, async ({ NetworkID }) => {
      if (!(await driver.deleteNetwork(NetworkID))) await orphans.deleted(NetworkID);
      return {};
    }),
    "NetworkDriver.DiscoverNew": method(wire.Discovery, () => ({})),
    "NetworkDriver.DiscoverDelete": method(wire.Discovery, () => ({})),
  };
}

function endpointMethods(driver: Driver): Record<string, Method> {
  return {
    "NetworkDriver.CreateEndpoint": method(wire.CreateEndpoint, async (request) => {
      const { Address, AddressIPv6, MacAddress } = request.Interface ?? {};
      const sysctls = request.Options?.["com.docker.network.endpoint.sysctls"];
      const mac = await driver.createEndpoint({
        network: request.NetworkID,
        id: request.EndpointID,
        ...(Address ? { ipv4: Address } : {}),
        ...(AddressIPv6 ? { ipv6: AddressIPv6 } : {}),
        ...(MacAddress ? { mac: MacAddress.toLowerCase() } : {}),
        ...(sysctls ? { sysctls } : {}),
      });
      return mac ? { Interface: { MacAddress: mac } } : {};
    }),
    "NetworkDriver.DeleteEndpoint": method(wire.EndpointOnly, async ({ NetworkID, EndpointID }) => {
      await driver.deleteEndpoint(NetworkID, EndpointID);
      return {};
    }),
    // Engine 20.10 fails the container on any other answer, also for an endpoint that is gone.
    "NetworkDriver.EndpointOperInfo": method(wire.EndpointOnly, () => ({ Value: {} })),
    "NetworkDriver.Join": method(wire.Join, async ({ NetworkID, EndpointID, SandboxKey }) =>
      joinReply(await driver.join(NetworkID, EndpointID, SandboxKey)),
    ),
    "NetworkDriver.Leave": method(wire.EndpointOnly, async ({ NetworkID, EndpointID }) => {
      await driver.leave(NetworkID, EndpointID);
      return {};
    }),
    "NetworkDriver.ProgramExternalConnectivity": method(wire.ProgramExternalConnectivity, async (request) => {
      const bindings = request.Options?.["com.docker.network.portmap"] ?? [];
      const ipv6Elsewhere = request.Options?.["com.docker.network.driver.private.no_proxy_6to4"] ?? false;
      await driver.ports.publish(request.NetworkID, request.EndpointID, bindings, ipv6Elsewhere ? [6] : []);
      return {};
    }),
    "NetworkDriver.RevokeExternalConnectivity": method(
      wire.EndpointOnly,
      async ({ NetworkID, EndpointID }) => {
        await driver.ports.revoke(NetworkID, EndpointID);
        return {};
      },
    ),
  };
}

/** RouteType of a route without a next hop (libnetwork, types.CONNECTED). */
const CONNECTED = 1;

function joinReply({ link, gateway, gatewayIPv6, onLink, withoutGateway }: JoinResponse): object {
  return {
    InterfaceName: { SrcName: link.name, DstPrefix: link.prefix },
    ...(gateway ? { Gateway: gateway } : {}),
    ...(gatewayIPv6 ? { GatewayIPv6: gatewayIPv6 } : {}),
    ...(onLink
      ? { StaticRoutes: onLink.map((subnet) => ({ Destination: subnet, RouteType: CONNECTED })) }
      : {}),
    ...(withoutGateway ? { DisableGatewayService: true } : {}),
  };
}
