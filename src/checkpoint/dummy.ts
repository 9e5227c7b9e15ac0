// Random weights for measuring without a checkpoint: deterministic, and made as fast as memory is written.
import { encodeCodes } from '../tensor/codes.ts';
import {
  encodeFloats,
  isCodeDType,
  isFloatDType,
  itemSize,
  type CodeDType,
  type DType,
} from '../tensor/dtype.ts';
import { FLOAT8_E4M3_MAX } from '../tensor/float8.ts';
import {
  scaleTensorName,
  type TensorCatalog,
  type TensorSource,
  type TensorView,
} from '../tensor/tensor-source.ts';
import type { WeightFormat } from '../tensor/weight-format.ts';
import { NeedletailError } from '../util/errors.ts';

const STANDARD_DEVIATION = 0.02;
/** Of weights: they are uniform between this and its negative. */
const AMPLITUDE = STANDARD_DEVIATION * Math.sqrt(3);
/** Of static activations, under which eight times their usual size still fits into int8. */
const INPUT_SCALE = 1 / 16;

/** Prime, so that the rows of a matrix, whose lengths are round numbers, do not repeat each other. */
const TILE_ELEMENTS = 1_048_573;

/** Codes on either side of their zero. */
const CODE_AMPLITUDE: Readonly<Record<CodeDType, number>> = {
  int8: 127,
  uint4: 7.5,
  float8_e4m3fn: FLOAT8_E4M3_MAX,
};

/**
 * Weights for `tensors`: matrices uniform with mean 0 and standard deviation 0.02 (codes and their scales give the same),
 * norm weights (vectors) 1, biases 0, so that activations stay in range through any number of layers. Every tensor
 * repeats one random tile from a place of its own: large ones are views of the same memory, which nobody may write to.
 */
export function dummySource(tensors: TensorCatalog, seed: number): TensorSource {
  const scales = scaleFormats(tensors);
  const repeated = new Map<DType, RepeatedTile>();
  return {
    read(name): TensorView {
      const spec = tensors.get(name);
      if (!spec)
        throw new NeedletailError(
          'bad_checkpoint',
          `there is no tensor "${name}" to make random weights for`,
        );
      const { dtype, shape } = spec;
      const numElements = shape.reduce((product, size) => product * size, 1);
      const numBytes = numElements * itemSize(dtype);
      const constant = constantOf(name, shape, scales.get(name));
      if (constant) {
        const pattern = encode(dtype, Float32Array.from(constant));
        return { dtype, shape, bytes: repeat(pattern, numBytes) };
      }
      const tile = repeated.get(dtype) ?? new RepeatedTile(randomTile(dtype, seed));
      repeated.set(dtype, tile);
      const start = Math.floor((hash(name) % (TILE_ELEMENTS - 1)) * itemSize(dtype));
      return { dtype, shape, bytes: tile.view(start, numBytes) };
    },
    close: () => repeated.clear(),
  };
}

/** A tile over and over, as often as was asked for so far. */
class RepeatedTile {
  readonly #tile: Uint8Array;
  #bytes: Uint8Array;

  constructor(tile: Uint8Array) {
    this.#tile = tile;
    this.#bytes = tile;
  }

  view(start: number, length: number): Uint8Array {
    if (this.#bytes.length < start + length) this.#bytes = repeat(this.#tile, start + length);
    return this.#bytes.subarray(start, start + length);
  }
}

/** Of each tensor of scales, the format of the codes that they belong to. */
function scaleFormats(tensors: TensorCatalog): ReadonlyMap<string, WeightFormat> {
  const quantized = [...tensors].filter(([, { quantized }]) => quantized !== undefined);
  return new Map(quantized.map(([name, facts]) => [scaleTensorName(name), facts.quantized!.weights]));
}

/** Elements that repeat: 0 for biases, 1 for other vectors (norms), scales (and zeros); null for what is random. */
function constantOf(
  name: string,
  shape: readonly number[],
  scales: WeightFormat | undefined,
): readonly number[] | null {
  if (scales) {
    const largest = CODE_AMPLITUDE[scales.dtype];
    return scales.hasZeros ? [AMPLITUDE / largest, largest] : [AMPLITUDE / largest];
  }
  if (name.endsWith('input_scale')) return [INPUT_SCALE];
  if (name.endsWith('bias')) return [0];
  return shape.length <= 1 ? [1] : null;
}

function randomTile(dtype: DType, seed: number): Uint8Array {
  const random = mulberry32(seed);
  const [amplitude, middle] = isCodeDType(dtype)
    ? [CODE_AMPLITUDE[dtype], dtype === 'uint4' ? 7.5 : 0]
    : [AMPLITUDE, 0];
  const round = isCodeDType(dtype) && dtype !== 'float8_e4m3fn' ? Math.round : (value: number) => value;
  // Two codes of uint4 share a byte.
  const length = TILE_ELEMENTS - (dtype === 'uint4' ? 1 : 0);
  return encode(
    dtype,
    Float32Array.from({ length }, () => round(middle + amplitude * (2 * random() - 1))),
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

function encode(dtype: DType, values: Float32Array): Uint8Array {
  if (isFloatDType(dtype)) return encodeFloats(dtype, values);
  if (isCodeDType(dtype)) return encodeCodes(dtype, values);
  throw new Error(`no random weights are made in ${dtype}`);
}

/** `length` bytes of `tile`, over and over; each copy doubles what there is. */
function repeat(tile: Uint8Array, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  bytes.set(tile.subarray(0, length));
  for (let done = tile.length; done < length; done *= 2) bytes.copyWithin(done, 0, done);
  return bytes;
}

/** FNV-1a. */
function hash(text: string): number {
  let value = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) value = Math.imul(value ^ text.charCodeAt(i), 0x01000193);
  return value >>> 0;
}
