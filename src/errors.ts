import type * as z from "zod";

/** What kind of failure it was; the reply's `Code`, stable across versions. */
export type ErrorCode =
  | "invalid"
  | "unknown-network"
  | "unknown-endpoint"
  | "conflict"
  | "unsupported"
  | "busy"
  | "kernel"
  | "store"
  | "docker"
  | "dbus";

/**
 * Everything tsnet throws on purpose. The message is one line: what was tried, on what, why not,
 * and what to do if we know. It reaches the user's terminal through the engine.
 */
export class TsnetError extends Error {
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
    this.code = code;
  }
}

/** A request or an option that cannot be meant: names what was given and what is allowed. */
export class InvalidError extends TsnetError {
  constructor(message: string, options?: ErrorOptions) {
    super("invalid", message, options);
  }
}

/** Something is there already and differs from what was asked for. */
export class ConflictError extends TsnetError {
  constructor(message: string, options?: ErrorOptions) {
    super("conflict", message, options);
  }
}

/** What was asked for is what another network has. */
export class TakenError extends ConflictError {
  /** The network's id. */
  readonly by: string;

  constructor(by: string, message: string) {
    super(message);
    this.by = by;
  }
}

/** The kernel, or a program that speaks to it, refused. The message starts with the equal command. */
export class KernelError extends TsnetError {
  /** The errno's name, such as `EEXIST`; empty where a program failed without one. */
  readonly errno: string;

  constructor(command: string, errno: string, detail = "", options?: ErrorOptions) {
    super("kernel", `${command}: ${[errno, detail].filter(Boolean).join(": ")}`, options);
    this.errno = errno;
  }
}

/** The errno's name that the kernel answered with, here or in a call of Node's; empty if it was something else. */
export function errnoOf(error: unknown): string {
  if (error instanceof KernelError) return error.errno;
  const { code } = (error ?? {}) as { code?: unknown };
  return typeof code === "string" ? code : "";
}

/** Whether the kernel answered with one of these errno names. */
export function isErrno(error: unknown, ...names: string[]): boolean {
  return names.includes(errnoOf(error));
}

/** What is wrong with what a schema refused, first of all: where, and what. */
export function firstIssue({ issues: [issue] }: z.ZodError): { path: string; message: string } {
  return { path: issue?.path.join(".") ?? "", message: issue?.message ?? "cannot be read" };
}

/** The text of whatever was thrown, on one line, for a message that wraps it. */
export function reason(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return text.replace(/\s*\n\s*/g, "; ");
}
