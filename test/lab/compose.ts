import { join } from "node:path";
import { tree } from "./debian.ts";

/** Path of Docker's compose program, of the release that the newest engine is from; fetched where it is not there yet. */
export async function compose(): Promise<string> {
  const { root } = await tree("docker-compose", { sid: ["docker-compose"] });
  return join(root, "usr/libexec/docker/cli-plugins/docker-compose");
}
