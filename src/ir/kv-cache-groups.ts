// Which layers share a block table: those whose caches have the same geometry, window and type; and what they take.
import { kvHeadBytes } from '../tensor/dtype.ts';
import type { KVCacheSpec } from './graph.ts';

/** The groups in order of their first layer; a graph input's `group` is an index into them. */
export function kvCacheGroups(specs: readonly KVCacheSpec[]): readonly (readonly KVCacheSpec[])[] {
  const groups = new Map<string, KVCacheSpec[]>();
  for (const spec of specs) {
    const key = JSON.stringify({ ...spec, layer: 0 });
    groups.set(key, [...(groups.get(key) ?? []), spec]);
  }
  return [...groups.values()];
}

/** Bytes of a token's keys, and of its values, in one layer's cache. */
export function kvBytesPerToken({ numKvHeads, keyHeadDim, valueHeadDim, dtype }: KVCacheSpec): {
  readonly keys: number;
  readonly values: number;
} {
  return {
    keys: numKvHeads * kvHeadBytes(keyHeadDim, dtype),
    values: numKvHeads * kvHeadBytes(valueHeadDim, dtype),
  };
}
