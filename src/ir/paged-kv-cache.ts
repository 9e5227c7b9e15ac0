// Keys and values in blocks, as the interpreter keeps them: float32 that went through the cache's type.
import { fromFloat16Bits, roundEven, roundTo, toFloat16Bits } from '../tensor/dtype.ts';
import { roundToFloat8E4M3 } from '../tensor/float8.ts';
import type { KVCacheSpec } from './graph.ts';

/** One layer's cache. */
export class PagedKVCache {
  readonly blockSize: number;
  readonly keys: Float32Array; // [numBlocks · blockSize, numKvHeads, keyHeadDim]
  readonly values: Float32Array; // [numBlocks · blockSize, numKvHeads, valueHeadDim]
  readonly #spec: KVCacheSpec;
  readonly #keySize: number;
  readonly #valueSize: number;

  constructor(spec: KVCacheSpec, blockSize: number, numBlocks: number) {
    this.blockSize = blockSize;
    this.#spec = spec;
    this.#keySize = spec.numKvHeads * spec.keyHeadDim;
    this.#valueSize = spec.numKvHeads * spec.valueHeadDim;
    this.keys = new Float32Array(numBlocks * blockSize * this.#keySize);
    this.values = new Float32Array(numBlocks * blockSize * this.#valueSize);
  }

  /** Store a row of keys `[numTokens, numKvHeads · keyHeadDim]` and one of values for each slot. */
  write(keys: Float32Array, values: Float32Array, slotMapping: Int32Array): void {
    slotMapping.forEach((slot, token) => {
      this.#store(this.keys, slot, keys, token, this.#spec.keyHeadDim);
      this.#store(this.values, slot, values, token, this.#spec.valueHeadDim);
    });
  }

  copyBlock(source: number, destination: number): void {
    copyRow(this.keys, source, destination, this.blockSize * this.#keySize);
    copyRow(this.values, source, destination, this.blockSize * this.#valueSize);
  }

  #store(cache: Float32Array, slot: number, rows: Float32Array, row: number, headDim: number): void {
    const { numKvHeads, dtype } = this.#spec;
    for (let head = 0; head < numKvHeads; head++) {
      const start = (row * numKvHeads + head) * headDim;
      const stored = storedHead(rows.subarray(start, start + headDim), dtype);
      cache.set(stored, (slot * numKvHeads + head) * headDim);
    }
  }
}

/** One head's vector as it survives storage. */
function storedHead(vector: Float32Array, dtype: KVCacheSpec['dtype']): Float32Array {
  if (dtype === 'float8_e4m3fn') return vector.map(roundToFloat8E4M3);
  if (dtype !== 'int8') return vector.map((value) => roundTo(dtype, value));
  const absmax = vector.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const scale = fromFloat16Bits(toFloat16Bits(absmax / 127));
  if (scale === 0) return new Float32Array(vector.length);
  return vector.map((value) => {
    const code = roundEven(Math.fround(value / scale));
    return Math.min(Math.max(code, -127), 127) * scale;
  });
}

function copyRow(data: Float32Array, source: number, destination: number, size: number): void {
  data.copyWithin(destination * size, source * size, (source + 1) * size);
}

/** The caches of all layers, by group as block tables address them. */
export class PagedKVCaches {
  readonly #groups: readonly (readonly PagedKVCache[])[];
  readonly #byLayer = new Map<number, PagedKVCache>();

  /** `numBlocks`: of each group. */
  constructor(groups: readonly (readonly KVCacheSpec[])[], blockSize: number, numBlocks: readonly number[]) {
    this.#groups = groups.map((specs, group) =>
      specs.map((spec) => {
        const cache = new PagedKVCache(spec, blockSize, numBlocks[group]);
        this.#byLayer.set(spec.layer, cache);
        return cache;
      }),
    );
  }

  layer(layer: number): PagedKVCache {
    return this.#byLayer.get(layer)!;
  }

  /** `blockCopies`: triples of group, source block and destination block. */
  copyBlocks(blockCopies: Int32Array): void {
    for (let i = 0; i < blockCopies.length; i += 3) {
      const [group, source, destination] = blockCopies.subarray(i, i + 3);
      for (const cache of this.#groups[group]) cache.copyBlock(source, destination);
    }
  }
}
