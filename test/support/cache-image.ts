// The bytes of a layer's KV cache as the GPU keeps them, written down anew from kv-tile.cuh.
import type { KVCacheSpec } from '../../src/ir/graph.ts';
import type { PagedKVCaches } from '../../src/ir/paged-kv-cache.ts';
import { itemSize, toFloat16Bits } from '../../src/tensor/dtype.ts';
import { encode } from './device-bytes.ts';

const BLOCK_SIZE = 16;

export interface FilledCache {
  readonly spec: KVCacheSpec;
  readonly numBlocks: number;
  readonly paged: PagedKVCaches;
}

/** A layer's cache as kv-tile.cuh lays it out: keys, then values. */
export function cacheImage({ spec, numBlocks, paged }: FilledCache): Uint8Array {
  const { keys, values } = paged.layer(spec.layer);
  const images = [
    { rows: keys, headDim: spec.keyHeadDim },
    { rows: values, headDim: spec.valueHeadDim },
  ];
  return Buffer.concat(
    images.map(({ rows, headDim }) => tiled(storedRows(rows, spec, headDim), spec, numBlocks)),
  );
}

/** Rows of a head as a cache holds them; int8 codes have a scale each. */
interface StoredRows {
  readonly rows: Uint8Array;
  readonly rowBytes: number;
  readonly scales: Uint16Array | null;
}

function storedRows(values: Float32Array, { dtype }: KVCacheSpec, headDim: number): StoredRows {
  const rowBytes = headDim * itemSize(dtype);
  if (dtype !== 'int8') return { rows: encode(dtype, values), rowBytes, scales: null };
  const scales = Float32Array.from({ length: values.length / headDim }, (_, row) => {
    const head = values.subarray(row * headDim, (row + 1) * headDim);
    // The largest code is ±127.
    return head.reduce((most, value) => Math.max(most, Math.abs(value)), 0) / 127;
  });
  const codes = values.map((value, i) => Math.round(value / (scales[Math.floor(i / headDim)] || 1)));
  return { rows: encode(dtype, codes), rowBytes, scales: Uint16Array.from(scales, toFloat16Bits) };
}

/** Rows [numBlocks, BLOCK_SIZE, numKvHeads] of bytes → [numBlocks, numKvHeads] tiles of BLOCK_SIZE rows, their scales behind. */
function tiled(
  { rows, rowBytes, scales }: StoredRows,
  { numKvHeads }: KVCacheSpec,
  numBlocks: number,
): Uint8Array {
  const tileBytes = BLOCK_SIZE * (rowBytes + (scales ? 2 : 0));
  const sorted = new Uint8Array(numBlocks * numKvHeads * tileBytes);
  const places = Uint32Array.from({ length: BLOCK_SIZE * rowBytes }, (_, i) =>
    tileByte(Math.floor(i / rowBytes), i % rowBytes, rowBytes),
  );
  for (let slot = 0; slot < numBlocks * BLOCK_SIZE; slot++)
    for (let head = 0; head < numKvHeads; head++) {
      const [block, row] = [Math.floor(slot / BLOCK_SIZE), slot % BLOCK_SIZE];
      const from = slot * numKvHeads + head;
      const tile = (block * numKvHeads + head) * tileBytes;
      for (let at = 0; at < rowBytes; at++)
        sorted[tile + places[row * rowBytes + at]] = rows[from * rowBytes + at];
      if (scales)
        new DataView(sorted.buffer).setUint16(tile + BLOCK_SIZE * rowBytes + 2 * row, scales[from], true);
    }
  return sorted;
}

/** Byte of a tile of 16 rows where byte `at` of a row lies. */
function tileByte(row: number, at: number, rowBytes: number): number {
  if (rowBytes % 16 !== 0) return row * rowBytes + at;
  let start = at - (at % 128);
  let width = 128;
  while (start + width > rowBytes || at >= start + width) {
    if (start + width <= rowBytes) start += width;
    width /= 2;
  }
  const piece = Math.floor((at - start) / 16) ^ Math.floor(((row % 8) * width) / 128);
  return start * BLOCK_SIZE + row * width + piece * 16 + (at % 16);
}
