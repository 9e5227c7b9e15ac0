// Quantization of rows and its inverse: what every device's packing and quantizing kernels must do, to the last bit.
import { roundEven, type CodeDType } from './dtype.ts';
import { FLOAT8_E4M3_MAX, roundToFloat8E4M3 } from './float8.ts';
import { impliedZero, scaleColumns, type GroupedFormat } from './weight-format.ts';

const { fround } = Math;

/** Codes as the numbers they are (for float8 their values), and scales `[rows, groups]` or `[rows, 2 · groups]`. */
export interface QuantizedRows {
  readonly codes: Float32Array;
  readonly scales: Float32Array;
}

/** Largest code on either side of zero. */
const LARGEST_CODE: Readonly<Record<CodeDType, number>> = {
  int8: 127,
  uint4: 7,
  float8_e4m3fn: FLOAT8_E4M3_MAX,
};

/**
 * Quantizes `values`, whose groups of `groupSize` lie one after the other. All arithmetic is float32:
 * - without zeros: scale = absmax / 127 (`uint4`: 7, `float8_e4m3fn`: 448), code = round(x / scale), kept within the type;
 * - `uint4` with zeros, over the range [min, max] that includes 0: scale = (max − min) / 15, zero = round(−min / scale),
 *   code = round(x / scale) + zero, kept within 0 and 15.
 *
 * Whole numbers round half to even. A scale of 0 (all values 0, or too small for one) becomes 1. A group with a value
 * that is NaN or infinite has a scale that is not finite either, so that whatever is computed with it shows.
 */
export function quantizeRows(values: Float32Array, format: GroupedFormat): QuantizedRows {
  const { dtype, groupSize, hasZeros } = format;
  if (hasZeros && dtype !== 'uint4') throw new Error(`no zeros are made for ${dtype}`);
  const numGroups = values.length / groupSize;
  const codes = new Float32Array(values.length);
  const scales = new Float32Array(scaleColumns(format, values.length));
  for (let group = 0; group < numGroups; group++) {
    const range = [group * groupSize, (group + 1) * groupSize] as const;
    if (hasZeros) {
      const { scale, zero } = rangeScale(values, ...range);
      scales.set([scale, zero], 2 * group);
      encodeGroup(values, codes, ...range, scale, zero, dtype);
    } else {
      scales[group] = scaleOf(absmaxOf(values, ...range), dtype);
      encodeGroup(values, codes, ...range, scales[group], impliedZero(dtype), dtype);
    }
  }
  return { codes, scales };
}

/** Codes under a scale that is given. */
export function quantizeWithScale(values: Float32Array, scale: number, dtype: CodeDType): Float32Array {
  const codes = new Float32Array(values.length);
  encodeGroup(values, codes, 0, values.length, scale, impliedZero(dtype), dtype);
  return codes;
}

/** (code − zero) · scale, in float32. */
export function dequantizeRows(
  codes: Float32Array,
  scales: Float32Array,
  { dtype, groupSize, hasZeros }: GroupedFormat,
): Float32Array {
  const values = new Float32Array(codes.length);
  for (let start = 0, group = 0; start < codes.length; start += groupSize, group++) {
    const scale = hasZeros ? scales[2 * group] : scales[group];
    const zero = hasZeros ? scales[2 * group + 1] : impliedZero(dtype);
    for (let i = start; i < start + groupSize; i++) values[i] = (codes[i] - zero) * scale;
  }
  return values;
}

/** What quantizing leaves of `values`: codes made back into numbers. */
export function roundTrip(values: Float32Array, format: GroupedFormat): Float32Array {
  const { codes, scales } = quantizeRows(values, format);
  return dequantizeRows(codes, scales, format);
}

/** The scale of a group without zeros, by the largest magnitude in it. */
export function scaleOf(absmax: number, dtype: CodeDType): number {
  return orOne(fround(absmax / LARGEST_CODE[dtype]));
}

/** The first scale that nothing can be multiplied by: 0, NaN or infinite; null if there is none. */
export function findBadScale(scales: Float32Array, hasZeros: boolean): number | null {
  for (let i = 0; i < scales.length; i += hasZeros ? 2 : 1) {
    if (!Number.isFinite(scales[i]) || scales[i] === 0) return scales[i];
  }
  return null;
}

function absmaxOf(values: Float32Array, start: number, end: number): number {
  let absmax = 0;
  for (let i = start; i < end; i++) absmax = Math.max(absmax, Math.abs(values[i]));
  return absmax;
}

function rangeScale(values: Float32Array, start: number, end: number): { scale: number; zero: number } {
  let [min, max] = [0, 0];
  for (let i = start; i < end; i++) {
    min = Math.min(min, values[i]);
    max = Math.max(max, values[i]);
  }
  const scale = orOne(fround(fround(max - min) / 15));
  return { scale, zero: roundEven(fround(-min / scale)) };
}

function orOne(scale: number): number {
  return scale === 0 ? 1 : scale;
}

function encodeGroup(
  values: Float32Array,
  codes: Float32Array,
  start: number,
  end: number,
  scale: number,
  zero: number,
  dtype: CodeDType,
): void {
  if (dtype === 'float8_e4m3fn') {
    for (let i = start; i < end; i++) codes[i] = roundToFloat8E4M3(fround(values[i] / scale));
    return;
  }
  const [lowest, highest] = dtype === 'uint4' ? [0, 15] : [-LARGEST_CODE.int8, LARGEST_CODE.int8];
  for (let i = start; i < end; i++) {
    codes[i] = Math.min(Math.max(roundEven(fround(values[i] / scale)) + zero, lowest), highest);
  }
}
