import koffi from "koffi";
import { getSystemErrorName } from "node:util";
import { KernelError } from "../errors.ts";
import { LEAVING_GROUP } from "../names.ts";
import { deleteGroupPayload } from "./link.ts";
import { RTM } from "./rtnetlink.ts";

const AF_NETLINK = 16;
const SOCK_RAW_CLOEXEC = 0x80003;
const NLM_F_REQUEST_ACK = 5;
const NLMSGHDR = 16;
const REPLY_SIZE = 8192;

/**
 * Deletes links beside the requests. The kernel waits for grace periods before it answers (rcu_barrier in
 * netdev_run_todo, net/core/dev.c): 15 ms for a veth pair, 30 ms for a bridge, and the send call with it. So a link
 * that goes is put into a group, which says for good that it is going, and the groups's links are deleted
 * at one stroke on a thread: forty veth pairs take 34 ms instead of 640.
 */
export class LinkRemover {
  readonly #libc = koffi.load("libc.so.6");
  readonly #send = this.#libc.func("int64 send(int, const void *, uint64, int)");
  readonly #receive = this.#libc.func("int64 recv(int, _Out_ uint8_t *, uint64, int)");
  readonly #close = this.#libc.func("int close(int)");
  readonly #fd: number;
  readonly #onFailure: (error: unknown) => void;
  #running: Promise<void> | undefined;
  #again = false;

  /** @param onFailure is told when the kernel refused; the links stay in the group until the next call */
  constructor(onFailure: (error: unknown) => void) {
    this.#onFailure = onFailure;
    this.#fd = this.#libc.func("int socket(int, int, int)")(AF_NETLINK, SOCK_RAW_CLOEXEC, 0) as number;
    if (this.#fd < 0) throw new KernelError("socket AF_NETLINK", getSystemErrorName(-koffi.errno()));
  }

  /** Starts to delete every link that was put into the group until now. */
  start(): void {
    this.#again = true;
    this.#running ??= this.#work();
  }

  /** Waits until none is being deleted. */
  async gone(): Promise<void> {
    await this.#running;
  }

  /** Waits, then closes the socket. */
  async close(): Promise<void> {
    await this.#running;
    this.#close(this.#fd);
  }

  async #work(): Promise<void> {
    while (this.#again) {
      this.#again = false;
      try {
        await this.#deleteGroup();
      } catch (error) {
        this.#onFailure(error);
      }
    }
    this.#running = undefined;
  }

  async #deleteGroup(): Promise<void> {
    const command = `ip link delete group ${LEAVING_GROUP}`;
    const payload = deleteGroupPayload(LEAVING_GROUP);
    const head = Buffer.alloc(NLMSGHDR);
    head.writeUInt32LE(NLMSGHDR + payload.length, 0);
    head.writeUInt16LE(RTM.DELLINK, 4);
    head.writeUInt16LE(NLM_F_REQUEST_ACK, 6);
    const message = Buffer.concat([head, payload]);
    await new Promise<void>((resolve, reject) => {
      this.#send.async(this.#fd, message, message.length, 0, (error: unknown, sent: number) => {
        if (error || sent < 0) reject(new KernelError(command, "", "send failed", { cause: error }));
        else resolve();
      });
    });
    // The kernel has queued its answer by the time send returns, so this does not block.
    const reply = Buffer.alloc(REPLY_SIZE);
    this.#receive(this.#fd, reply, reply.length, 0);
    const errno = reply.readInt32LE(NLMSGHDR);
    if (errno !== 0 && getSystemErrorName(errno) !== "ENODEV")
      throw new KernelError(command, getSystemErrorName(errno));
  }
}
