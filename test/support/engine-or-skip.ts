import type { Context } from "mocha";
import { EngineUnavailableError } from "../lab/engines.ts";
import { skip } from "./skip.ts";

/** Waits for something with an engine in it. Where that cannot be fetched, what the hook is for is skipped. */
export async function engineOrSkip<T>(context: Context, starting: Promise<T>): Promise<T> {
  try {
    return await starting;
  } catch (error) {
    if (error instanceof EngineUnavailableError) skip(context, error.message);
    throw error;
  }
}
