// Names of full KV blocks: a hash of the block's tokens that continues the hash of everything before them.
import { hash } from 'node:crypto';
import type { Int32List } from './int32-list.ts';

/** 32 bytes of SHA-256, one character each. Collisions are out of reach, so equal names mean equal prefixes. */
export type BlockHash = string;

const HASH_BYTES = 32;

/** What a chain starts from: requests share blocks only if seed (KV type, adapter) and salt (tenant) are equal. */
export function rootHash(seed: string, salt: string): BlockHash {
  return hash('sha256', JSON.stringify([seed, salt]), 'binary');
}

/** Hashes of a sequence's full blocks, computed when first asked for. */
export class BlockHashChain {
  readonly #root: BlockHash;
  readonly #blockSize: number;
  readonly #hashes: BlockHash[];

  constructor(root: BlockHash, blockSize: number, hashes: readonly BlockHash[] = []) {
    this.#root = root;
    this.#blockSize = blockSize;
    this.#hashes = [...hashes];
  }

  /** A chain of its own for a sequence that shares the tokens so far. */
  fork(): BlockHashChain {
    return new BlockHashChain(this.#root, this.#blockSize, this.#hashes);
  }

  /** Hash of block `index`, whose tokens must all be known. */
  at(index: number, tokens: Int32List): BlockHash {
    for (let i = this.#hashes.length; i <= index; i++) {
      const block = tokens.view(i * this.#blockSize, (i + 1) * this.#blockSize);
      this.#hashes.push(chainHash(this.#hashes[i - 1] ?? this.#root, block));
    }
    return this.#hashes[index];
  }

  /** Forgets the blocks from `numBlocks` on: their tokens will change. */
  truncate(numBlocks: number): void {
    if (this.#hashes.length > numBlocks) this.#hashes.length = numBlocks;
  }
}

function chainHash(parent: BlockHash, tokens: Int32Array): BlockHash {
  const input = Buffer.allocUnsafe(HASH_BYTES + tokens.byteLength);
  input.write(parent, 'binary');
  input.set(new Uint8Array(tokens.buffer, tokens.byteOffset, tokens.byteLength), HASH_BYTES);
  return hash('sha256', input, 'binary');
}
