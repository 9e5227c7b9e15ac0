// The KV blocks of one cache group: reference counts, the free list, and the names under which full blocks are reused.
import type { BlockHash } from './block-hash.ts';

const NONE = -1;

/**
 * A free block without a name is taken first; named ones follow, the least recently used first, and keep their
 * contents until they are taken. The free list is doubly linked, so that a block found by its name leaves it in O(1).
 */
export class BlockPool {
  readonly numBlocks: number;
  #numFree: number;
  readonly #refCounts: Int32Array;
  readonly #next: Int32Array;
  readonly #previous: Int32Array;
  #head = NONE;
  #tail = NONE;
  readonly #names: (BlockHash | null)[];
  readonly #blocksByName = new Map<BlockHash, number>();

  constructor(numBlocks: number) {
    this.numBlocks = numBlocks;
    this.#numFree = 0;
    this.#refCounts = new Int32Array(numBlocks);
    this.#next = new Int32Array(numBlocks).fill(NONE);
    this.#previous = new Int32Array(numBlocks).fill(NONE);
    this.#names = new Array<BlockHash | null>(numBlocks).fill(null);
    for (let block = 0; block < numBlocks; block++) this.#link(block);
  }

  /** Free blocks, those included that could still be found by their name. */
  get numFree(): number {
    return this.#numFree;
  }

  /** Takes a free block; its name is forgotten. The caller has checked `numFree`. */
  take(): number {
    const block = this.#head;
    if (block === NONE) throw new Error('no free KV block: numFree was not checked');
    this.#unlink(block);
    this.forgetName(block);
    this.#refCounts[block] = 1;
    return block;
  }

  /** One more user of a block, which may have been free. */
  share(block: number): void {
    if (this.#refCounts[block] === 0) this.#unlink(block);
    this.#refCounts[block] += 1;
  }

  /** One user less. The last one returns it to the free list. */
  release(block: number): void {
    const refCount = this.#refCounts[block];
    if (refCount === 0) throw new Error(`KV block ${block} was released twice`);
    this.#refCounts[block] = refCount - 1;
    if (refCount === 1) this.#link(block);
  }

  isShared(block: number): boolean {
    return this.#refCounts[block] > 1;
  }

  isFree(block: number): boolean {
    return this.#refCounts[block] === 0;
  }

  /** The block of that name, in use or free; undefined if there is none. */
  find(name: BlockHash): number | undefined {
    return this.#blocksByName.get(name);
  }

  /** Lets a full, computed block be found. A second block of equal content stays nameless. */
  nameBlock(block: number, name: BlockHash): void {
    if (this.#names[block] !== null || this.#blocksByName.has(name)) return;
    this.#names[block] = name;
    this.#blocksByName.set(name, block);
  }

  /** Before a block's contents change. */
  forgetName(block: number): void {
    const name = this.#names[block];
    if (name == null) return;
    this.#blocksByName.delete(name);
    this.#names[block] = null;
  }

  /**
   * Throws if a block is lost, doubly free, or counted wrongly. `uses[block]` is how many block tables hold it.
   */
  checkIntegrity(uses: Int32Array): void {
    let numInUse = 0;
    for (let block = 0; block < this.numBlocks; block++) {
      if (this.#refCounts[block] !== uses[block])
        throw new Error(`KV block ${block}: counted ${this.#refCounts[block]} users, found ${uses[block]}`);
      if (uses[block] > 0) numInUse++;
    }
    let numFree = 0;
    for (let block = this.#head; block !== NONE; block = this.#next[block]!) {
      if (!this.isFree(block)) throw new Error(`KV block ${block} is in use and on the free list`);
      if (++numFree > this.numBlocks) throw new Error('the free list of KV blocks is a circle');
    }
    if (numFree !== this.#numFree || numFree + numInUse !== this.numBlocks)
      throw new Error(`${numFree} free + ${numInUse} used KV blocks of ${this.numBlocks}`);
    for (const [name, block] of this.#blocksByName)
      if (this.#names[block] !== name)
        throw new Error(`KV block ${block} is found by a name it does not bear`);
  }

  /** Named blocks go to the end of the free list, nameless ones to its head. */
  #link(block: number): void {
    this.#numFree++;
    const atEnd = this.#names[block] !== null;
    const previous = atEnd ? this.#tail : NONE;
    const next = atEnd ? NONE : this.#head;
    this.#previous[block] = previous;
    this.#next[block] = next;
    if (previous === NONE) this.#head = block;
    else this.#next[previous] = block;
    if (next === NONE) this.#tail = block;
    else this.#previous[next] = block;
  }

  #unlink(block: number): void {
    this.#numFree--;
    const previous = this.#previous[block];
    const next = this.#next[block];
    if (previous === NONE) this.#head = next;
    else this.#next[previous] = next;
    if (next === NONE) this.#tail = previous;
    else this.#previous[next] = previous;
  }
}
