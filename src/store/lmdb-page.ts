import { must } from "./damage.ts";

/** Bytes of a page's header (MDB_page_header) and of a node's (MDB_node). */
export const HEADER = 24;
const NODE_HEADER = 8;

/** Flags of a page and of a node (liblmdb/mdb.c, P_… and F_…). */
const BRANCH = 1;
const LEAF = 2;
const OVERFLOW = 4;
const BIG = 1;
const TREE = 2;

/** One entry of a page: a child of a branch, or a key with its value. */
export interface Node {
  readonly key: Buffer;
  /** Branch: number of the page below. */
  readonly child: number;
  /** Leaf: bytes of the value, which is on pages of its own if it is big. */
  readonly size: number;
  readonly value: Buffer;
  readonly isBig: boolean;
  /** The value is a named database (MDB_db). */
  readonly isTree: boolean;
}

/**
 * A number of 64 bits. Those of a sound file are far below 2^53; a larger one loses digits and is refused by its bound.
 */
export function word(raw: Buffer, offset: number): number {
  return Number(raw.readBigUInt64LE(offset));
}

/**
 * The nodes of a page, every bound checked: what comes back is inside the page and does not overlap.
 *
 * @param raw the whole page
 * @param newest transaction of the snapshot
 */
export function parsePage(
  raw: Buffer,
  number: number,
  newest: number,
): { isLeaf: boolean; nodes: readonly Node[] } {
  mustBePage(raw, number, newest);
  const flags = raw.readUInt16LE(18);
  must(flags === BRANCH || flags === LEAF, () => `page ${number} has flags ${flags}`);
  const isLeaf = flags === LEAF;
  const [lower, upper] = [raw.readUInt16LE(20), raw.readUInt16LE(22)];
  must(
    lower % 2 === 0 && lower <= upper && upper <= raw.length - HEADER,
    () => `page ${number} has no bounds`,
  );
  // LMDB aborts the process at a branch with one child.
  must(lower >= (isLeaf ? 2 : 4), () => `page ${number} is empty`);
  let total = 0;
  const nodes = Array.from({ length: lower / 2 }, (_, index) => {
    const at = HEADER + raw.readUInt16LE(HEADER + 2 * index);
    must(at >= HEADER + upper && at + NODE_HEADER <= raw.length, () => `page ${number} points outside`);
    const { node, length } = parseNode(raw.subarray(at), isLeaf);
    must(at + length <= raw.length, () => `an entry of page ${number} is too long`);
    total += length + (length % 2);
    return node;
  });
  must(total === raw.length - HEADER - upper, () => `entries of page ${number} overlap`);
  return { isLeaf, nodes };
}

/** Checks the first of the pages that a big value has to itself. */
export function mustBeOverflow(raw: Buffer, number: number, newest: number, pages: number): void {
  mustBePage(raw, number, newest);
  must(
    raw.readUInt16LE(18) === OVERFLOW && raw.readUInt32LE(20) === pages,
    () => `page ${number} is not the start of a value of ${pages} pages`,
  );
}

function mustBePage(raw: Buffer, number: number, newest: number): void {
  must(word(raw, 0) === number, () => `page ${number} has another number`);
  must(word(raw, 8) <= newest, () => `page ${number} is newer than the newest transaction`);
  must(raw.readUInt16LE(16) === 0, () => `page ${number} is of another kind`);
}

function parseNode(raw: Buffer, isLeaf: boolean): { node: Node; length: number } {
  const [low, flags, keySize] = [raw.readUInt32LE(0), raw.readUInt16LE(4), raw.readUInt16LE(6)];
  if (isLeaf) must((flags & ~(BIG | TREE)) === 0, () => `an entry has flags ${flags}`);
  const isBig = isLeaf && (flags & BIG) !== 0;
  const valueAt = NODE_HEADER + keySize;
  const inPage = isLeaf ? (isBig ? HEADER : low) : 0;
  const node = {
    key: raw.subarray(NODE_HEADER, valueAt),
    child: low + flags * 2 ** 32,
    size: low,
    value: raw.subarray(valueAt, valueAt + inPage),
    isBig,
    isTree: isLeaf && (flags & TREE) !== 0,
  };
  return { node, length: valueAt + inPage };
}
