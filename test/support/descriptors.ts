import koffi from "koffi";

const RLIMIT_NOFILE = 7;

const libc = koffi.load("libc.so.6");
const getrlimit = libc.func("int getrlimit(int, _Out_ uint8_t *)");
const setrlimit = libc.func("int setrlimit(int, const void *)");

/** Runs something, at once, while the process cannot have another file descriptor (getrlimit(2), EMFILE). */
export function withoutDescriptors<T>(fn: () => T): T {
  // struct rlimit: soft, hard.
  const before = Buffer.alloc(16);
  getrlimit(RLIMIT_NOFILE, before);
  const none = Buffer.from(before);
  none.writeBigUInt64LE(0n);
  setrlimit(RLIMIT_NOFILE, none);
  try {
    return fn();
  } finally {
    setrlimit(RLIMIT_NOFILE, before);
  }
}
