// Hands out KV blocks to sequences: allocate, fork (copy on write), truncate, free, and reuse of equal prefixes.
import { BlockHashChain, rootHash } from './block-hash.ts';
import { BlockPool } from './block-pool.ts';
import { Int32List } from './int32-list.ts';

export interface CacheGroupConfig {
  readonly numBlocks: number;
  /** Tokens a query may look back at, itself included; null for all of them. */
  readonly window: number | null;
}

export interface BlockManagerConfig {
  /** Tokens in a block. */
  readonly blockSize: number;
  readonly groups: readonly CacheGroupConfig[];
  readonly enablePrefixCaching: boolean;
  /** What else decides a block's contents: KV type, later the adapter. */
  readonly hashSeed: string;
}

/** The blocks of one sequence. Every group's table has an entry for each `blockSize` tokens. */
export class SequenceBlocks {
  /** One block table per group. */
  readonly tables: readonly Int32List[];
  /** Leading entries per group that hold no block any more: no later query can see so far back. */
  readonly numRetired: number[];
  readonly chain: BlockHashChain;
  /** Blocks that were offered for reuse. */
  numNamed = 0;

  constructor(tables: readonly Int32List[], numRetired: number[], chain: BlockHashChain) {
    this.tables = tables;
    this.numRetired = numRetired;
    this.chain = chain;
  }

  get numBlocks(): number {
    return this.tables[0].length;
  }
}

/** A cached prefix that a sequence could start from. */
export interface CachedPrefix {
  readonly numBlocks: number;
  /** Of these, how many cost no free block: other sequences hold them now. */
  readonly numHeld: number;
}

interface Group {
  readonly index: number;
  readonly pool: BlockPool;
  readonly window: number | null;
}

const NO_PREFIX: CachedPrefix = { numBlocks: 0, numHeld: 0 };

export class BlockManager {
  readonly blockSize: number;
  /** Blocks that one sequence, alone, could hold. */
  readonly capacity: number;
  /** Tokens whose KV was looked for, and found, when sequences started. */
  numQueriedTokens = 0;
  numHitTokens = 0;
  readonly #groups: readonly Group[];
  readonly #enablePrefixCaching: boolean;
  readonly #hashSeed: string;
  /** (group, source, destination) triples of the step being scheduled. */
  #copies: number[] = [];

  constructor(config: BlockManagerConfig) {
    this.blockSize = config.blockSize;
    this.#groups = config.groups.map(({ numBlocks, window }, index) => ({
      index,
      window,
      pool: new BlockPool(numBlocks),
    }));
    this.capacity = Math.min(...config.groups.map((group) => group.numBlocks));
    this.#enablePrefixCaching = config.enablePrefixCaching;
    this.#hashSeed = config.hashSeed;
  }

  /** Blocks that every group has free. */
  get numFree(): number {
    let numFree = Infinity;
    for (const { pool } of this.#groups) numFree = Math.min(numFree, pool.numFree);
    return numFree;
  }

  /** Blocks of all groups together, for statistics. */
  totals(): { numBlocks: number; numFreeBlocks: number } {
    let numBlocks = 0;
    let numFreeBlocks = 0;
    for (const { pool } of this.#groups) {
      numBlocks += pool.numBlocks;
      numFreeBlocks += pool.numFree;
    }
    return { numBlocks, numFreeBlocks };
  }

  blocksFor(numTokens: number): number {
    return Math.ceil(numTokens / this.blockSize);
  }

  /** Empty tables for a new sequence. */
  open(cacheSalt: string): SequenceBlocks {
    const chain = new BlockHashChain(rootHash(this.#hashSeed, cacheSalt), this.blockSize);
    return new SequenceBlocks(
      this.#groups.map(() => new Int32List()),
      this.#groups.map(() => 0),
      chain,
    );
  }

  /** The longest cached prefix of at most `maxTokens` tokens. */
  findPrefix(blocks: SequenceBlocks, tokens: Int32List, maxTokens: number): CachedPrefix {
    if (!this.#enablePrefixCaching) return NO_PREFIX;
    let numBlocks = Math.floor(Math.max(0, maxTokens) / this.blockSize);
    // A group may lower what the others found, and they must then agree to the shorter prefix.
    for (let agreed = -1; agreed !== numBlocks;) {
      agreed = numBlocks;
      for (const group of this.#groups) numBlocks = this.#usablePrefix(group, blocks, tokens, numBlocks);
    }
    let numHeld = numBlocks;
    for (const group of this.#groups)
      numHeld = Math.min(numHeld, this.#countHeld(group, blocks, tokens, numBlocks));
    return { numBlocks, numHeld };
  }

  /** Starts a sequence without blocks from a prefix just found. Returns the number of its tokens. */
  reusePrefix(blocks: SequenceBlocks, tokens: Int32List, prefix: CachedPrefix): number {
    for (const { index, pool, window } of this.#groups) {
      const numRetired = this.#firstVisibleBlock(window, prefix.numBlocks * this.blockSize);
      blocks.numRetired[index] = numRetired;
      for (let i = 0; i < prefix.numBlocks; i++) {
        const block = i < numRetired ? 0 : pool.find(blocks.chain.at(i, tokens))!;
        if (i >= numRetired) pool.share(block);
        blocks.tables[index].push(block);
      }
    }
    blocks.numNamed = prefix.numBlocks;
    const numTokens = prefix.numBlocks * this.blockSize;
    this.numQueriedTokens += tokens.length;
    this.numHitTokens += numTokens;
    return numTokens;
  }

  /**
   * Makes the tokens `[start, end)` writable: new blocks at the end, copies of blocks that others share. Returns false,
   * having changed nothing that matters, if too few blocks are free.
   */
  allocate(blocks: SequenceBlocks, start: number, end: number): boolean {
    for (const group of this.#groups) this.#retire(group, blocks, start);
    for (const group of this.#groups)
      if (group.pool.numFree < this.#countNeeded(group, blocks, start, end)) return false;
    for (const group of this.#groups) {
      this.#makeWritable(group, blocks, start, end);
      const table = blocks.tables[group.index];
      for (let i = table.length; i < this.blocksFor(end); i++) table.push(group.pool.take());
    }
    return true;
  }

  /** The same blocks for another sequence; whoever writes into one first gets a copy. */
  fork(blocks: SequenceBlocks): SequenceBlocks {
    const tables = blocks.tables.map((table) => Int32List.from(table.view()));
    const child = new SequenceBlocks(tables, [...blocks.numRetired], blocks.chain.fork());
    child.numNamed = blocks.numNamed;
    for (const { index, pool } of this.#groups)
      for (let i = blocks.numRetired[index]; i < blocks.numBlocks; i++) pool.share(tables[index].at(i));
    return child;
  }

  /** Offers full blocks of the first `numComputed` tokens for reuse. Their KV must have been computed. */
  commit(blocks: SequenceBlocks, tokens: Int32List, numComputed: number): void {
    const numFull = Math.floor(numComputed / this.blockSize);
    if (!this.#enablePrefixCaching || numFull <= blocks.numNamed) return;
    for (const { index, pool } of this.#groups)
      for (let i = Math.max(blocks.numNamed, blocks.numRetired[index]); i < numFull; i++)
        pool.nameBlock(blocks.tables[index].at(i), blocks.chain.at(i, tokens));
    blocks.numNamed = numFull;
  }

  /**
   * Gives back what lies behind the first `numTokens` tokens; the caller drops those tokens, too. Not further back than
   * the last `allocate` began: before it a windowed group may lack what the next token has to see.
   */
  truncate(blocks: SequenceBlocks, numTokens: number): void {
    for (const { index, window } of this.#groups)
      if (this.#firstVisibleBlock(window, numTokens) < blocks.numRetired[index])
        throw new Error(`cannot go back to ${numTokens} tokens: their window is gone`);
    this.#releaseFrom(blocks, this.blocksFor(numTokens));
    const numFull = Math.floor(numTokens / this.blockSize);
    blocks.chain.truncate(numFull);
    blocks.numNamed = Math.min(blocks.numNamed, numFull);
  }

  /** Gives back all blocks. The sequence may start again. */
  free(blocks: SequenceBlocks): void {
    this.#releaseFrom(blocks, 0);
    blocks.numRetired.fill(0);
    blocks.numNamed = 0;
  }

  /** Block copies that the step must make first, as (group, source, destination) triples in this order. */
  takeCopies(): Int32Array {
    const copies = Int32Array.from(this.#copies);
    if (copies.length > 0) this.#copies = [];
    return copies;
  }

  /** Throws unless every block is either free or counted exactly as often as these, all living, sequences hold it. */
  checkIntegrity(living: Iterable<SequenceBlocks>): void {
    const uses = this.#groups.map(({ pool }) => new Int32Array(pool.numBlocks));
    for (const blocks of living)
      for (const { index } of this.#groups)
        for (const block of blocks.tables[index].view(blocks.numRetired[index])) uses[index][block] += 1;
    for (const { index, pool } of this.#groups) pool.checkIntegrity(uses[index]);
  }

  /** Last blocks first: of a cached prefix the end is evicted before what it continues. */
  #releaseFrom(blocks: SequenceBlocks, numKept: number): void {
    for (const { index, pool } of this.#groups) {
      const table = blocks.tables[index];
      const first = Math.max(numKept, blocks.numRetired[index]);
      for (let i = table.length - 1; i >= first; i--) pool.release(table.at(i));
      table.truncate(numKept);
    }
  }

  #countNeeded({ index, pool }: Group, blocks: SequenceBlocks, start: number, end: number): number {
    const table = blocks.tables[index];
    let needed = Math.max(0, this.blocksFor(end) - table.length);
    for (let i = Math.floor(start / this.blockSize); i < table.length; i++)
      if (pool.isShared(table.at(i))) needed++;
    return needed;
  }

  #makeWritable({ index, pool }: Group, blocks: SequenceBlocks, start: number, end: number): void {
    const table = blocks.tables[index];
    const last = Math.min(table.length, this.blocksFor(end));
    for (let i = Math.floor(start / this.blockSize); i < last; i++) {
      const block = table.at(i);
      if (!pool.isShared(block)) {
        pool.forgetName(block);
        continue;
      }
      const copy = pool.take();
      this.#copies.push(index, block, copy);
      pool.release(block);
      table.set(i, copy);
    }
  }

  /** Frees blocks that no query at or after `start` can see. */
  #retire({ index, pool, window }: Group, blocks: SequenceBlocks, start: number): void {
    const table = blocks.tables[index];
    const numRetired = Math.min(this.#firstVisibleBlock(window, start), table.length);
    for (let i = blocks.numRetired[index]; i < numRetired; i++) {
      pool.release(table.at(i));
      table.set(i, 0);
      blocks.numRetired[index] = i + 1;
    }
  }

  /** The first block that a query at `position` can see. */
  #firstVisibleBlock(window: number | null, position: number): number {
    return window === null ? 0 : Math.floor(Math.max(0, position - window + 1) / this.blockSize);
  }

  /** The longest prefix of at most `numBlocks` blocks of which all that a next token would see is cached. */
  #usablePrefix(
    { pool, window }: Group,
    blocks: SequenceBlocks,
    tokens: Int32List,
    numBlocks: number,
  ): number {
    let usable = window === null ? 0 : numBlocks;
    if (window === null) {
      while (usable < numBlocks && pool.find(blocks.chain.at(usable, tokens)) !== undefined) usable++;
      return usable;
    }
    for (let i = usable - 1; i >= this.#firstVisibleBlock(window, usable * this.blockSize); i--)
      if (pool.find(blocks.chain.at(i, tokens)) === undefined) usable = i;
    return usable;
  }

  #countHeld({ pool, window }: Group, blocks: SequenceBlocks, tokens: Int32List, numBlocks: number): number {
    let numHeld = this.#firstVisibleBlock(window, numBlocks * this.blockSize);
    for (let i = numHeld; i < numBlocks; i++)
      if (!pool.isFree(pool.find(blocks.chain.at(i, tokens))!)) numHeld++;
    return numHeld;
  }
}
