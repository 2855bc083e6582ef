import { must } from "./damage.ts";
import { HEADER, mustBeOverflow, parsePage, word } from "./lmdb-page.ts";

/** What a file of LMDB holds. */
export interface Contents {
  /** What is not in a named database. */
  readonly plain: ReadonlyMap<string, string>;
  readonly databases: ReadonlyMap<string, ReadonlyMap<string, string>>;
}

/** An MDB_db: where a tree starts and what is in it. */
interface Tree {
  readonly flags: number;
  readonly depth: number;
  readonly branches: number;
  readonly leaves: number;
  readonly overflows: number;
  readonly entries: number;
  readonly root: number;
}

interface Meta {
  readonly transaction: number;
  readonly lastPage: number;
  readonly free: Tree;
  readonly main: Tree;
}

type Visit = (key: Buffer, value: Buffer, isTree: boolean) => void;
type Compare = (a: Buffer, b: Buffer) => number;

/** `mdb_env_init_meta0`: the file is no directory (0x4000), and the keys of the free pages' tree are integers (8). */
const FREE_FLAGS = 0x4008;
/** lmdb-js marks a transaction that it had not flushed yet. */
const UNFLUSHED = 0x1000;
const NOWHERE = 2 ** 64;
const TREE_SIZE = 48;

/**
 * Reads a file of LMDB without LMDB: data format 2 on a 64-bit little-endian machine (liblmdb/mdb.c). LMDB maps the
 * file and trusts it, so that a short or a changed one ends the process with a signal. Here everything that it trusts
 * is checked: bounds, order, counts, and that no page is used twice.
 *
 * @throws {DamageError} that says where the file is wrong
 */
export function readLmdb(file: Buffer): Contents {
  must(file.length > 0, () => "the file is empty");
  return new LmdbFile(file).read();
}

class LmdbFile {
  readonly #meta: Meta;
  readonly #file: Buffer;
  readonly #pageSize: number;
  readonly #used = new Set<number>();

  constructor(file: Buffer) {
    this.#file = file;
    must(file.length >= 512, () => `the file has ${file.length} bytes`);
    this.#pageSize = file.readUInt32LE(2 * HEADER);
    const { length } = file;
    must(
      this.#pageSize >= 512 && this.#pageSize <= 65_536 && length >= 2 * this.#pageSize,
      () => `pages of ${this.#pageSize} bytes in a file of ${length}`,
    );
    const [zero, one] = [this.#readMeta(0), this.#readMeta(1)];
    const [newest, older] = zero.transaction > one.transaction ? [zero, one] : [one, zero];
    // Each transaction writes one of the two in turn; a copy has one only.
    must(
      older.transaction === newest.transaction - 1 ||
        (older.transaction === 0 && older.main.root === NOWHERE),
      () => `transactions ${older.transaction} and ${newest.transaction} do not follow each other`,
    );
    this.#meta = newest;
  }

  read(): Contents {
    const { free, main } = this.#meta;
    const plain = new Map<string, string>();
    const databases = new Map<string, ReadonlyMap<string, string>>();
    this.#walk(main, compareBytes, (key, value, isTree) => {
      // LMDB's binding ends the names of databases with a zero byte.
      const name = key.toString().replace(/\0$/, "");
      if (isTree) databases.set(name, this.#database(value));
      else plain.set(name, value.toString());
    });
    this.#walk(free, compareIntegers, (key, value) => {
      this.#free(key, value);
    });
    this.#mustEndWithFreePages();
    return { plain, databases };
  }

  #readMeta(index: 0 | 1): Meta {
    const at = index * this.#pageSize;
    const raw = this.#file.subarray(at + HEADER, at + this.#pageSize);
    must(
      word(this.#file, at) === index && this.#file.readUInt16LE(at + 18) === 8,
      () => `page ${index} is not a meta page`,
    );
    must(raw.readUInt32LE(0) === 0xbeefc0de, () => `page ${index} is not LMDB's`);
    must(raw.readUInt32LE(4) === 2, () => `data format ${raw.readUInt32LE(4)} is not known`);
    const [free, main] = [parseTree(raw, 24), parseTree(raw, 24 + TREE_SIZE)];
    const [address, mapSize, lastPage, transaction] = [
      word(raw, 8),
      word(raw, 16),
      word(raw, 120),
      word(raw, 128),
    ];
    must(
      raw.readUInt32LE(24) === this.#pageSize && raw.readUInt32LE(24 + TREE_SIZE) === 0 && address === 0,
      () => `page ${index} is a meta page of another kind`,
    );
    must(
      (free.flags & ~UNFLUSHED) === FREE_FLAGS && main.flags === 0,
      () => `page ${index} has flags ${free.flags} and ${main.flags}`,
    );
    must(
      lastPage >= 1 && lastPage < 2 ** 32 && mapSize <= 2 ** 46 && transaction < 2 ** 52,
      () => `page ${index} has impossible numbers`,
    );
    return { transaction, lastPage, free, main };
  }

  #database(raw: Buffer): ReadonlyMap<string, string> {
    must(raw.length === TREE_SIZE && raw.readUInt32LE(0) === 0, () => "a database has no description");
    const tree = parseTree(raw, 0);
    must(tree.flags === 0, () => `a database has flags ${tree.flags}`);
    const entries = new Map<string, string>();
    this.#walk(tree, compareBytes, (key, value, isTree) => {
      must(!isTree, () => "a database is inside another");
      entries.set(key.toString(), value.toString());
    });
    return entries;
  }

  #walk(tree: Tree, compare: Compare, visit: Visit): void {
    const seen = { branches: 0, leaves: 0, overflows: 0, entries: 0 };
    const descend = (number: number, level: number, from?: Buffer, to?: Buffer) => {
      const { isLeaf, nodes } = parsePage(this.#page(number), number, this.#meta.transaction);
      must(isLeaf === (level === tree.depth), () => `page ${number} is at the wrong depth`);
      if (isLeaf) seen.leaves += 1;
      else seen.branches += 1;
      // A branch's first key stands for everything below the second.
      const keys = nodes.map(({ key }, index) => (isLeaf || index > 0 ? key : undefined));
      const ordered = [from, ...keys, to].filter((key) => key !== undefined);
      const inOrder = ordered.every((key, index) => {
        const next = ordered[index + 1];
        const order = next ? compare(key, next) : -1;
        // The key that leads here may be that of the first entry here.
        return order < 0 || (order === 0 && index === 0 && from !== undefined);
      });
      must(inOrder, () => `keys of page ${number} are out of order`);
      nodes.forEach((node, index) => {
        if (!isLeaf) {
          descend(node.child, level + 1, keys[index] ?? from, keys[index + 1] ?? to);
          return;
        }
        seen.entries += 1;
        const value = node.isBig ? this.#big(node.value, node.size) : node.value;
        if (node.isBig) seen.overflows += word(node.value, 16);
        visit(node.key, value, node.isTree);
      });
    };
    if (tree.root !== NOWHERE) descend(tree.root, 1);
    else must(tree.depth === 0, () => "a tree has no root");
    for (const [what, count] of Object.entries(seen))
      must(
        count === tree[what as keyof typeof seen],
        () => `${count} ${what} in a tree of ${tree[what as keyof typeof seen]}`,
      );
  }

  /** A value on pages of its own; the leaf has their number instead (MDB_ovpage). */
  #big(reference: Buffer, size: number): Buffer {
    const [number, pages] = [word(reference, 0), word(reference, 16)];
    must(
      pages === Math.floor((HEADER - 1 + size) / this.#pageSize) + 1,
      () => `a value of ${size} bytes has ${pages} pages`,
    );
    mustBeOverflow(this.#page(number), number, this.#meta.transaction, pages);
    for (let page = number + 1; page < number + pages; page += 1) this.#page(page);
    const at = number * this.#pageSize + HEADER;
    return this.#file.subarray(at, at + size);
  }

  /** Free pages, by the transaction that freed them: how many, then each (mdb_freelist_save). */
  #free(key: Buffer, value: Buffer): void {
    const transaction = word(key, 0);
    must(
      transaction > 0 && transaction <= this.#meta.transaction,
      () => `pages freed by transaction ${transaction}`,
    );
    // The place for the list may be larger than the list.
    const end = value.length >= 8 ? 8 * (1 + word(value, 0)) : Infinity;
    must(end <= value.length && value.length % 8 === 0, () => "a list of free pages is cut off");
    for (let at = 8; at < end; at += 8) {
      const entry = Number(value.readBigInt64LE(at));
      // lmdb-js has zeros for pages taken off the list, and minus the length before a block.
      if (entry === 0) continue;
      if (entry > 0) {
        this.#claim(entry);
        continue;
      }
      at += 8;
      must(at < end && -entry <= this.#meta.lastPage, () => `a block of ${-entry} free pages`);
      const first = word(value, at);
      for (let page = first; page < first - entry; page += 1) this.#claim(page);
    }
  }

  /** The file may be shorter than it says, but only by free pages. */
  #mustEndWithFreePages(): void {
    const pages = Math.floor(this.#file.length / this.#pageSize);
    const beyond = [...this.#used].filter((number) => number >= pages).length;
    must(
      this.#meta.lastPage < pages + beyond,
      () => `page ${this.#meta.lastPage} is missing: the file was cut off`,
    );
  }

  #page(number: number): Buffer {
    this.#claim(number);
    const at = number * this.#pageSize;
    must(at + this.#pageSize <= this.#file.length, () => `page ${number} is missing: the file was cut off`);
    return this.#file.subarray(at, at + this.#pageSize);
  }

  #claim(number: number): void {
    must(
      number >= 2 && number <= this.#meta.lastPage,
      () => `page ${number} of ${this.#meta.lastPage} is used`,
    );
    must(!this.#used.has(number), () => `page ${number} is used twice`);
    this.#used.add(number);
  }
}

function parseTree(raw: Buffer, at: number): Tree {
  return {
    flags: raw.readUInt16LE(at + 4),
    depth: raw.readUInt16LE(at + 6),
    branches: word(raw, at + 8),
    leaves: word(raw, at + 16),
    overflows: word(raw, at + 24),
    entries: word(raw, at + 32),
    root: word(raw, at + 40),
  };
}

function compareBytes(a: Buffer, b: Buffer): number {
  return a.compare(b);
}

function compareIntegers(a: Buffer, b: Buffer): number {
  must(a.length === 8 && b.length === 8, () => "a list of free pages has no number");
  return word(a, 0) - word(b, 0);
}
