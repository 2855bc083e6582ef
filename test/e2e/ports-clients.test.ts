import assert from "node:assert/strict";
import { Answerers } from "./answers.ts";
import { Client } from "./client.ts";
import { onEachEngine } from "./each-engine.ts";
import { subnets } from "./site.ts";

/** How soon a client that never stops must be answered by who has the port now. */
const AT_ONCE_MS = 1000;
/**
 * The same, where a packet may come before the container's new interface is up: then the kernel asks once more who has
 * the address after a second (RFC 4861, section 10).
 */
const ASKED_AGAIN_MS = 2500;
const PORT = 9000;

onEachEngine("clients that never stop", (site) => {
  const answerers = new Answerers();
  let client: Client;

  before(async () => {
    for (const name of ["blue", "green"]) {
      const { v4, v6 } = subnets();
      await site.network(name, "--ipv6", "--subnet", v4, "--subnet", v6);
    }
    // Keeps its address from being given to the next container, which would hide what is looked for.
    await site.run("spacer", "blue");
  });

  beforeEach(async () => {
    client = await Client.start(answerers, site.neighbour, Object.values(site.address), PORT);
  });

  afterEach(async () => {
    await answerers.stop();
    await site.docker("rm", "-f", ...["c1", "c2", "c3"]).catch(() => undefined);
  });

  it("reach a container at once whose port is published under their hands", async () => {
    await serve("c1");
    await client.isAnsweredBy("c1", AT_ONCE_MS);
  });

  it("reach the new container at once when the old one is removed or stopped", async () => {
    await serve("c1");
    await client.isAnsweredBy("c1", AT_ONCE_MS);
    await site.docker("rm", "-f", "c1");
    await site.run("filler", "blue");
    await serve("c2");
    await client.isAnsweredBy("c2", AT_ONCE_MS);
    await site.docker("stop", "-t", "0", "c2");
    await serve("c3");
    await client.isAnsweredBy("c3", AT_ONCE_MS);
    await site.docker("rm", "-f", "filler");
  });

  it("follow the container when its gateway moves to another network", async () => {
    await serve("c1");
    await site.docker("network", "connect", "green", "c1");
    await client.isAnsweredBy("c1", AT_ONCE_MS);
    await site.docker("network", "disconnect", "blue", "c1");
    await client.isAnsweredBy("c1", AT_ONCE_MS);
    await site.docker("network", "connect", "blue", "c1");
    await client.isAnsweredBy("c1", ASKED_AGAIN_MS);
  });

  it("are never connected to nobody", async () => {
    for (const name of ["c1", "c2"]) {
      await serve(name);
      await client.isAnsweredBy(name, AT_ONCE_MS);
      await site.docker("rm", "-f", name);
    }
    assert.deepEqual(client.silences(), []);
  });

  async function serve(name: string): Promise<void> {
    await site.run(name, "blue", ...["-p", `${PORT}:80`, "-p", `${PORT}:80/udp`]);
    await answerers.start(site.host, name, [80], name);
  }
});
