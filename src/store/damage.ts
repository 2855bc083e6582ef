import { TsnetError } from "../errors.ts";

/** Somebody other than LMDB has changed the file. */
export class DamageError extends TsnetError {
  constructor(message: string) {
    super("store", message);
  }
}

/** @throws {DamageError} with that text unless the file is as it says */
export function must(holds: boolean, otherwise: () => string): asserts holds {
  if (!holds) throw new DamageError(otherwise());
}
