// Random weights for measuring without a checkpoint: deterministic, and made as fast as memory is written.
import { type FloatDType, itemSize, toBfloat16Bits, toFloat16Bits } from '../tensor/dtype.ts';
import type { TensorCatalog, TensorSource, TensorView } from '../tensor/tensor-source.ts';
import { NeedletailError } from '../util/errors.ts';

const STANDARD_DEVIATION = 0.02;

/** Prime, so that the rows of a matrix, whose lengths are round numbers, do not repeat each other. */
const TILE_ELEMENTS = 1_048_573;

/**
 * Weights for `tensors`: matrices uniform with mean 0 and standard deviation 0.02, norm weights (vectors) 1, biases 0,
 * so that activations stay in range through any number of layers. Every tensor repeats one random tile from a place of
 * its own. Nothing is kept but the tile.
 */
export function dummySource(tensors: TensorCatalog, seed: number): TensorSource {
  const tiles = new Map<FloatDType, Uint8Array>();
  return {
    read(name): TensorView {
      const spec = tensors.get(name);
      if (!spec)
        throw new NeedletailError(
          'bad_checkpoint',
          `there is no tensor "${name}" to make random weights for`,
        );
      const { dtype, shape } = spec;
      const bytes = new Uint8Array(shape.reduce((product, size) => product * size, 1) * itemSize(dtype));
      const tile = constantPattern(name, shape, dtype) ?? cached(tiles, dtype, () => randomTile(dtype, seed));
      fill(bytes, tile, (hash(name) % TILE_ELEMENTS) * itemSize(dtype));
      return { dtype, shape, bytes };
    },
    close: () => tiles.clear(),
  };
}

/** One element, repeated: 0 for biases, 1 for other vectors (norms); null for what is random. */
function constantPattern(name: string, shape: readonly number[], dtype: FloatDType): Uint8Array | null {
  if (name.endsWith('bias')) return encode(dtype, Float32Array.of(0));
  return shape.length <= 1 ? encode(dtype, Float32Array.of(1)) : null;
}

function cached<K, V>(map: Map<K, V>, key: K, make: () => V): V {
  const value = map.get(key) ?? make();
  map.set(key, value);
  return value;
}

function randomTile(dtype: FloatDType, seed: number): Uint8Array {
  const random = mulberry32(seed);
  const amplitude = STANDARD_DEVIATION * Math.sqrt(3);
  return encode(
    dtype,
    Float32Array.from({ length: TILE_ELEMENTS }, () => amplitude * (2 * random() - 1)),
  );
}

/** Tommy Ettinger's generator: 32 bits of state are plenty for filler. */
function mulberry32(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let bits = Math.imul(state ^ (state >>> 15), state | 1);
    bits ^= bits + Math.imul(bits ^ (bits >>> 7), bits | 61);
    return ((bits ^ (bits >>> 14)) >>> 0) / 2 ** 32;
  };
}

function encode(dtype: FloatDType, values: Float32Array): Uint8Array {
  if (dtype === 'float32') return new Uint8Array(values.buffer);
  const toBits = dtype === 'bfloat16' ? toBfloat16Bits : toFloat16Bits;
  return new Uint8Array(Uint16Array.from(values, toBits).buffer);
}

/** Fills `bytes` with `tile`, over and over, beginning at byte `start` of it. */
function fill(bytes: Uint8Array, tile: Uint8Array, start: number): void {
  let position = start % tile.length;
  for (let done = 0; done < bytes.length; position = 0) {
    const chunk = tile.subarray(position, position + bytes.length - done);
    bytes.set(chunk, done);
    done += chunk.length;
  }
}

/** FNV-1a. */
function hash(text: string): number {
  let value = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) value = Math.imul(value ^ text.charCodeAt(i), 0x01000193);
  return value >>> 0;
}
