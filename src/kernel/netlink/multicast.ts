import { readFileSync, readdirSync, statSync } from "node:fs";
import type { NetlinkMessage } from "netlink";
import { KernelError, isErrno } from "../../errors.ts";
import { droppedBy, setOption } from "../socket-option.ts";
import { type NetlinkSocket, type Protocol, createNetlink } from "./binding.ts";

/**
 * Bytes for what is not read yet: some 10,000 messages, which come while the daemon does something else for a second.
 */
const RECEIVE_BUFFER = 4 << 20;

/** Who is told of what the kernel announces. */
export interface Listener {
  readonly onMessages: (messages: readonly NetlinkMessage[]) => void;
  /** Messages were dropped. Called afterwards, so whoever looks now sees what they were about. */
  readonly onLoss: () => void;
}

/**
 * Listens to what the kernel announces to multicast groups of a netlink protocol (netlink(7)). It waits for nobody and
 * drops what does not fit the socket's buffer.
 *
 * @returns stops it
 */
export function subscribe(
  protocol: Protocol,
  groups: readonly number[],
  { onMessages, onLoss }: Listener,
): () => void {
  const socket = createNetlink(protocol);
  const fd = descriptorOf(socket, protocol);
  // Where a full buffer is an error of the socket's, the binding ends the process, whoever listens for errors.
  setOption(fd, "NETLINK_NO_ENOBUFS", 1);
  enlarge(socket, fd);
  let dropped = droppedBy(fd);
  let asking: NodeJS.Immediate | undefined;
  // Once for all that have come: to ask takes longer than to read one.
  const ask = () => {
    asking = undefined;
    const now = droppedBy(fd);
    if (now !== dropped) onLoss();
    dropped = now;
  };
  socket.on("message", (messages) => {
    // The buffer was full when something was dropped, so a message is read after that.
    asking ??= setImmediate(ask);
    onMessages(messages);
  });
  socket.on("invalid", onLoss);
  socket.on("error", onLoss);
  for (const group of groups) socket.addMembership(group);
  return () => {
    clearImmediate(asking);
    socket.close();
  };
}

function enlarge(socket: NetlinkSocket, fd: number): void {
  try {
    setOption(fd, "SO_RCVBUFFORCE", RECEIVE_BUFFER);
  } catch (error) {
    if (!isErrno(error, "EPERM")) throw error;
    // In a user namespace (user_namespaces(7)) there is no more than net.core.rmem_max.
    socket.setRecvBufferSize(RECEIVE_BUFFER);
  }
}

/**
 * A socket's file descriptor, which the binding does not tell. No other of the same protocol has its address in
 * this namespace, and the kernel lists the inodes with them.
 */
function descriptorOf(socket: NetlinkSocket, protocol: Protocol): number {
  const rows = readFileSync("/proc/thread-self/net/netlink", "utf8").split("\n");
  const columns = rows.map((row) => row.trim().split(/\s+/));
  const { port } = socket.address();
  const row = columns.find(([, eth, pid]) => eth === String(protocol) && pid === String(port));
  const inode = Number(row?.at(-1));
  // Of thousands it is among the last.
  const fd = readdirSync("/proc/self/fd").findLast((name) => {
    const stat = statSync(`/proc/self/fd/${name}`, { throwIfNoEntry: false });
    return stat?.isSocket() && stat.ino === inode;
  });
  if (fd === undefined) throw new KernelError("socket AF_NETLINK", "", "no descriptor in /proc/self/fd");
  return Number(fd);
}
