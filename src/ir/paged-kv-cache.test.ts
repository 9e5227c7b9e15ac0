// What of a value survives each type of cache.
import { expect, it } from 'vitest';
import { kvBytesPerToken } from './kv-cache-groups.ts';
import type { KVCacheSpec } from './graph.ts';
import { PagedKVCache } from './paged-kv-cache.ts';

function specOf(dtype: KVCacheSpec['dtype']): KVCacheSpec {
  return { layer: 0, numKvHeads: 2, keyHeadDim: 2, valueHeadDim: 1, window: null, dtype };
}

function written(dtype: KVCacheSpec['dtype'], keys: number[], values: number[]): PagedKVCache {
  const cache = new PagedKVCache(specOf(dtype), 2, 2);
  cache.write(Float32Array.from(keys), Float32Array.from(values), Int32Array.of(3));
  return cache;
}

it('float8 holds the nearest of its values, saturated', () => {
  const cache = written('float8_e4m3fn', [0.3, 1000, -17, 2], [1.07, -0]);
  expect([...cache.keys.subarray(12)]).toEqual([0.3125, 448, -16, 2]);
  expect([...cache.values.subarray(6)].map((x) => x + 0)).toEqual([1.125, 0]);
  expect([...cache.keys.subarray(0, 12)]).toEqual(Array<number>(12).fill(0));
});

it('int8 has a float16 scale for each head of keys and of values', () => {
  const cache = written('int8', [127, 0.5, 1, -254], [0.1, 0]);
  expect([...cache.keys.subarray(12)].map((x) => x + 0)).toEqual([127, 0, 0, -254]);
  // 0.1 / 127 in float16 is 0.00078725814…, and times 127 that is not quite 0.1.
  const scale = 0.000787258148193359375;
  expect([...cache.values.subarray(6)]).toEqual([Math.fround(127 * scale), 0]);
});

it('counts the scales of int8', () => {
  expect(kvBytesPerToken(specOf('bfloat16'))).toEqual({ keys: 8, values: 4 });
  expect(kvBytesPerToken(specOf('float8_e4m3fn'))).toEqual({ keys: 4, values: 2 });
  expect(kvBytesPerToken(specOf('int8'))).toEqual({ keys: 8, values: 6 });
});
