import fc from "fast-check";

/** JSON's own kinds of values. */
const KINDS = ["string", "number", "boolean", "null", "array", "object"] as const;
export type Kind = (typeof KINDS)[number];

type Path = readonly (string | number)[];

/** A field of a sample, or an item of a list in it. */
export interface Place {
  readonly path: Path;
  /** Kinds of what it can be. */
  readonly takes: readonly Kind[];
  /** What it cannot be although its kind is right; undefined stands for its absence. */
  readonly malformed: readonly unknown[];
}

/** A well-formed value as an engine sends it. */
export interface Sample {
  readonly sent: unknown;
  /** What it is read as. */
  readonly read: unknown;
  readonly places: readonly Place[];
}

/** Values of one form: some of them, and how to tell what they are read as. */
export interface Shape {
  readonly samples: fc.Arbitrary<Sample>;
  readonly takes: readonly Kind[];
  /** What it cannot be although its kind is right. */
  readonly malformed: readonly unknown[];
  /** Whether something is what a value of this form can be read as. */
  readonly fits: (read: unknown) => boolean;
}

/**
 * A value without parts.
 *
 * @param samples what is sent and what it is read as
 */
export function scalar<T>(
  kind: Kind,
  samples: fc.Arbitrary<readonly [sent: unknown, read: T]>,
  fits: (read: T) => boolean,
  malformed: readonly unknown[] = [],
): Shape {
  return {
    samples: samples.map(([sent, read]) => ({ sent, read, places: [] })),
    takes: [kind],
    malformed,
    fits: (read) => kindOf(read) === kind && fits(read as T),
  };
}

/** What is read as it is sent. */
export function plain<T>(
  kind: Kind,
  values: fc.Arbitrary<T>,
  fits: (read: T) => boolean = () => true,
  malformed: readonly unknown[] = [],
): Shape {
  return scalar(
    kind,
    values.map((value) => [value, value] as const),
    fits,
    malformed,
  );
}

/** Any JSON. */
export const anything: Shape = {
  ...plain("object", fc.jsonValue()),
  takes: KINDS,
  fits: () => true,
};

/** The same, or null, which stays null. */
export function nullable(shape: Shape): Shape {
  const none = fc.constant<Sample>({ sent: null, read: null, places: [] });
  return {
    ...shape,
    samples: fc.oneof({ weight: 4, arbitrary: shape.samples }, { weight: 1, arbitrary: none }),
    takes: [...shape.takes, "null"],
    fits: (read) => read === null || shape.fits(read),
  };
}

/** The same, or an empty string, which is read as nothing. */
export function orEmpty(shape: Shape): Shape {
  const none = fc.constant<Sample>({ sent: "", read: undefined, places: [] });
  return {
    ...shape,
    samples: fc.oneof({ weight: 3, arbitrary: shape.samples }, { weight: 1, arbitrary: none }),
    fits: (read) => read === undefined || shape.fits(read),
  };
}

/** An array of the same. */
export function list(shape: Shape): Shape {
  return {
    samples: fc.array(shape.samples, { maxLength: 3 }).map((items) =>
      composed(
        items.map((item, index) => [index, shape, item, false] as const),
        true,
      ),
    ),
    takes: ["array"],
    malformed: [],
    fits: (read) => Array.isArray(read) && read.every(shape.fits),
  };
}

/** An object whose keys are the user's. */
export function map(shape: Shape): Shape {
  // No record of zod's has this key, whatever was sent.
  const keys = fc.string().filter((key) => key !== "__proto__");
  return {
    samples: fc
      .uniqueArray(fc.tuple(keys, shape.samples), { maxLength: 3, selector: ([key]) => key })
      .map((entries) => composed(entries.map(([key, value]) => [key, shape, value, false] as const))),
    takes: ["object"],
    malformed: [],
    fits: (read) => kindOf(read) === "object" && Object.values(read as object).every(shape.fits),
  };
}

/** An object with these fields, and more that nobody knows and that are not read. */
export function object(required: Record<string, Shape>, optional: Record<string, Shape> = {}): Shape {
  const all = { ...required, ...optional };
  const fields = Object.entries(all).map(([name, shape]) =>
    (name in required ? shape.samples : fc.option(shape.samples, { nil: undefined, freq: 3 })).map(
      (sample) => [name, shape, sample, name in required] as const,
    ),
  );
  const extras = fc.dictionary(
    fc.string().map((name) => `Future.${name}`),
    fc.jsonValue(),
    { maxKeys: 2 },
  );
  return {
    samples: fc.tuple(fc.tuple(...fields), extras).map(([parts, extra]) => {
      const sample = composed(parts);
      return { ...sample, sent: { ...extra, ...(sample.sent as object) } };
    }),
    takes: ["object"],
    malformed: [],
    fits: (read) =>
      kindOf(read) === "object" &&
      Object.keys(required).every((name) => name in (read as object)) &&
      Object.entries(read as object).every(([name, value]) => all[name]?.fits(value) ?? false),
  };
}

/** The same, read as something else. */
export function turned(
  shape: Shape,
  turn: (read: Readonly<Record<string, unknown>>) => unknown,
  fits: (read: unknown) => boolean,
): Shape {
  const samples = shape.samples.map((sample) => ({
    ...sample,
    read: turn(sample.read as Record<string, unknown>),
  }));
  return { ...shape, samples, fits };
}

/**
 * The same value with another one at a place; undefined leaves it out. What is around the place may be something else by
 * an earlier change, and then it stays.
 */
export function changed(value: unknown, path: Path, to: unknown): unknown {
  const [first, ...rest] = path;
  if (first === undefined) return to;
  if (Array.isArray(value))
    return (value as unknown[]).map((item, at) => (at === first ? changed(item, rest, to) : item));
  if (kindOf(value) !== "object") return value;
  const { [first]: old, ...others } = value as Record<string, unknown>;
  const now = changed(old, rest, to);
  return now === undefined ? others : { ...others, [first]: now };
}

/** What does not belong in a place. */
export function wrongFor({ takes, malformed }: Place): fc.Arbitrary<unknown> {
  const samples = fc.constantFrom<unknown>("text", 7, true, null, ["x"], { x: 1 });
  const ofOtherKinds = fc
    .oneof(samples, fc.jsonValue())
    .filter((value) => !takes.includes(kindOf(value) ?? "null"));
  const choices = [
    ...(takes.length < KINDS.length ? [ofOtherKinds] : []),
    ...(malformed.length > 0 ? [fc.constantFrom(...malformed)] : []),
  ];
  return fc.oneof(...choices);
}

/** Undefined for what is no JSON. */
export function kindOf(value: unknown): Kind | undefined {
  if (value === null) return "null";
  if (Array.isArray(value)) return "array";
  return KINDS.find((kind) => kind === typeof value);
}

type Part = readonly [key: string | number, shape: Shape, sample: Sample | undefined, required: boolean];

/** The fields or items of a value together; one that is absent has a place nevertheless. */
function composed(parts: readonly Part[], asList = false): Sample {
  const of = (what: "sent" | "read"): unknown => {
    const entries = parts.flatMap(([key, , sample]) => (sample ? [[key, sample[what]] as const] : []));
    return asList ? entries.map(([, value]) => value) : Object.fromEntries(entries);
  };
  const places = parts.flatMap(([key, { takes, malformed }, sample, required]) => [
    { path: [key], takes, malformed: required ? [...malformed, undefined] : malformed },
    ...(sample?.places ?? []).map((place) => ({ ...place, path: [key, ...place.path] })),
  ]);
  return { sent: of("sent"), read: of("read"), places };
}
