// One layer's keys and values in blocks, as the interpreter keeps them: float32 that went through the cache's type.
import { roundTo, type FloatDType } from '../tensor/dtype.ts';

export interface PagedKVCacheOptions {
  readonly numBlocks: number;
  /** Tokens in a block. */
  readonly blockSize: number;
  readonly numKvHeads: number;
  readonly keyHeadDim: number;
  readonly valueHeadDim: number;
  readonly dtype: FloatDType;
}

export class PagedKVCache {
  readonly blockSize: number;
  readonly keys: Float32Array; // [numBlocks · blockSize, numKvHeads, keyHeadDim]
  readonly values: Float32Array; // [numBlocks · blockSize, numKvHeads, valueHeadDim]
  readonly #keySize: number;
  readonly #valueSize: number;
  readonly #dtype: FloatDType;

  constructor(options: PagedKVCacheOptions) {
    const numSlots = options.numBlocks * options.blockSize;
    this.blockSize = options.blockSize;
    this.#keySize = options.numKvHeads * options.keyHeadDim;
    this.#valueSize = options.numKvHeads * options.valueHeadDim;
    this.#dtype = options.dtype;
    this.keys = new Float32Array(numSlots * this.#keySize);
    this.values = new Float32Array(numSlots * this.#valueSize);
  }

  /** Store one row of keys `[numTokens, numKvHeads · keyHeadDim]` and values per slot of `slotMapping`. */
  write(keys: Float32Array, values: Float32Array, slotMapping: Int32Array): void {
    slotMapping.forEach((slot, token) => {
      this.#store(this.keys, slot, keys, token, this.#keySize);
      this.#store(this.values, slot, values, token, this.#valueSize);
    });
  }

  copyBlock(source: number, destination: number): void {
    copyRows(this.keys, source, destination, this.blockSize * this.#keySize);
    copyRows(this.values, source, destination, this.blockSize * this.#valueSize);
  }

  #store(cache: Float32Array, slot: number, rows: Float32Array, row: number, size: number): void {
    for (let i = 0; i < size; i++) cache[slot * size + i] = roundTo(this.#dtype, rows[row * size + i]);
  }
}

function copyRows(data: Float32Array, source: number, destination: number, size: number): void {
  data.copyWithin(destination * size, source * size, (source + 1) * size);
}
