/** What tsnet says and hears on a bus: `s`, `as` and `a{sv}`; of what it is told, numbers and booleans as well. */
export type BusValue = string | number | boolean | readonly string[] | { readonly [key: string]: BusValue };

/** A method to call (D-Bus specification, "Message Format"). */
export interface MethodCall {
  readonly destination: string;
  readonly path: string;
  readonly interface: string;
  readonly member: string;
}

/** A message as it was received. */
export interface BusMessage {
  readonly type: "call" | "return" | "error" | "signal";
  /** Serial of the call that it answers; 0 for one that answers none. */
  readonly replyTo: number;
  /** Name of the method, the signal or, in full, the error. */
  readonly member: string;
  /** The arguments, as far as they are of types that tsnet knows. */
  readonly body: readonly BusValue[];
}

const TYPES = { 1: "call", 2: "return", 3: "error", 4: "signal" } as const;
const CALL = 1;
/** A service that does not run must not be started by being asked. */
const NO_AUTO_START = 2;
const VERSION = 1;
/** Byte order, type, flags, version, length of the body, serial, length of the fields. */
const FIXED = 16;
const LITTLE = "l".charCodeAt(0);
const FIELD = {
  path: 1,
  interface: 2,
  member: 3,
  errorName: 4,
  replySerial: 5,
  destination: 6,
  signature: 8,
};

/** A call on the wire. */
export function encodeCall(serial: number, call: MethodCall, args: readonly BusValue[]): Buffer {
  const body = new Writer();
  for (const value of args) body.value(value);
  const head = new Writer();
  head.bytes(LITTLE, CALL, NO_AUTO_START, VERSION);
  head.u32(body.length);
  head.u32(serial);
  head.array(8, () => {
    const field = (code: number, type: "o" | "s" | "g", text: string) => {
      head.align(8);
      head.bytes(code);
      head.signature(type);
      if (type === "g") head.signature(text);
      else head.string(text);
    };
    field(FIELD.path, "o", call.path);
    field(FIELD.interface, "s", call.interface);
    field(FIELD.member, "s", call.member);
    field(FIELD.destination, "s", call.destination);
    if (args.length > 0) field(FIELD.signature, "g", args.map(signatureOf).join(""));
  });
  head.align(8);
  return Buffer.concat([head.buffer(), body.buffer()]);
}

/** Bytes of the message that a buffer begins with; undefined while too few are there to tell. */
export function messageLength(buffer: Buffer): number | undefined {
  if (buffer.length < FIXED) return undefined;
  const reader = new Reader(buffer);
  return aligned(FIXED + reader.u32At(12), 8) + reader.u32At(4);
}

/**
 * Reads one whole message.
 *
 * @throws {RangeError} if it has a field of the head, which anybody may add, of a type that tsnet does not know
 */
export function decodeMessage(buffer: Buffer): BusMessage {
  const reader = new Reader(buffer);
  const fields = new Map<number, BusValue | undefined>();
  const end = FIXED + reader.u32At(12);
  for (reader.position = FIXED; reader.position < end;) {
    reader.position = aligned(reader.position, 8);
    const code = buffer.readUInt8(reader.position++);
    fields.set(code, reader.value(reader.signature()));
  }
  reader.position = aligned(end, 8);
  const body: BusValue[] = [];
  // A container of another kind begins with a type that is not known, and ends the reading.
  for (const type of text(fields.get(FIELD.signature)).match(/a?./g) ?? []) {
    const value = reader.value(type);
    if (value === undefined) break;
    body.push(value);
  }
  return {
    type: TYPES[buffer.readUInt8(1) as keyof typeof TYPES],
    replyTo: Number(fields.get(FIELD.replySerial) ?? 0),
    member: text(fields.get(FIELD.member) ?? fields.get(FIELD.errorName)),
    body,
  };
}

function text(value: BusValue | undefined): string {
  return typeof value === "string" ? value : "";
}

function aligned(position: number, to: number): number {
  return Math.ceil(position / to) * to;
}

function signatureOf(value: BusValue): string {
  if (typeof value === "string") return "s";
  if (typeof value === "number") return "u";
  if (typeof value === "boolean") return "b";
  return Array.isArray(value) ? "as" : "a{sv}";
}

/** Writes little-endian; positions count from the message's or the body's start, both of which are aligned to 8. */
class Writer {
  readonly #parts: Buffer[] = [];
  length = 0;

  buffer(): Buffer {
    return Buffer.concat(this.#parts);
  }

  bytes(...values: readonly number[]): void {
    this.#put(Buffer.from(values));
  }

  align(to: number): void {
    this.#put(Buffer.alloc(aligned(this.length, to) - this.length));
  }

  u32(value: number): Buffer {
    this.align(4);
    const out = Buffer.alloc(4);
    out.writeUInt32LE(value);
    this.#put(out);
    return out;
  }

  string(value: string): void {
    this.u32(Buffer.byteLength(value));
    this.#put(Buffer.from(`${value}\0`));
  }

  signature(value: string): void {
    this.bytes(value.length);
    this.#put(Buffer.from(`${value}\0`));
  }

  /** An array's length counts from its first element on. */
  array(alignment: number, elements: () => void): void {
    const length = this.u32(0);
    this.align(alignment);
    const start = this.length;
    elements();
    length.writeUInt32LE(this.length - start);
  }

  value(value: BusValue): void {
    if (typeof value === "string") this.string(value);
    else if (typeof value !== "object") this.u32(Number(value));
    else if (isList(value))
      this.array(4, () => {
        for (const item of value) this.string(item);
      });
    else
      this.array(8, () => {
        for (const [key, item] of Object.entries(value)) {
          this.align(8);
          this.string(key);
          this.signature(signatureOf(item));
          this.value(item);
        }
      });
  }

  #put(part: Buffer): void {
    this.#parts.push(part);
    this.length += part.length;
  }
}

function isList(value: object): value is readonly string[] {
  return Array.isArray(value);
}

/** Reads in whichever byte order the sender has. */
class Reader {
  readonly #buffer: Buffer;
  position = 0;

  constructor(buffer: Buffer) {
    this.#buffer = buffer;
  }

  u32At(offset: number): number {
    const little = this.#buffer.readUInt8(0) === LITTLE;
    return little ? this.#buffer.readUInt32LE(offset) : this.#buffer.readUInt32BE(offset);
  }

  signature(): string {
    return this.#text(this.#buffer.readUInt8(this.position++));
  }

  /** undefined for a type that tsnet does not know. */
  value(type: string): BusValue | undefined {
    if (type === "g") return this.signature();
    if (type === "u") return this.#u32();
    if (type === "b") return this.#u32() !== 0;
    if (type === "s" || type === "o") return this.#text(this.#u32());
    if (type !== "as") return undefined;
    const items: string[] = [];
    const length = this.#u32();
    for (const end = this.position + length; this.position < end;) items.push(this.#text(this.#u32()));
    return items;
  }

  #u32(): number {
    const offset = aligned(this.position, 4);
    this.position = offset + 4;
    return this.u32At(offset);
  }

  #text(length: number): string {
    const start = this.position;
    this.position += length + 1;
    return this.#buffer.toString("utf8", start, start + length);
  }
}
