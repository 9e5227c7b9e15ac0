// Codes as bytes and back, and any tensor's elements as the numbers that they are.
import { decodeFloats, isCodeDType, isFloatDType, type CodeDType } from './dtype.ts';
import { fromFloat8E4M3Bits, toFloat8E4M3Bits } from './float8.ts';
import type { TensorView } from './tensor-source.ts';

/** The bytes of codes that are given as numbers; of `uint4` an even count. */
export function encodeCodes(dtype: CodeDType, codes: Float32Array): Uint8Array {
  switch (dtype) {
    case 'int8':
      return new Uint8Array(Int8Array.from(codes).buffer);
    case 'float8_e4m3fn':
      return eachTo(new Uint8Array(codes.length), (i) => toFloat8E4M3Bits(codes[i]));
    case 'uint4':
      return packNibbles(Uint8Array.from(codes));
  }
}

/** The numbers that bytes of codes are: of `float8_e4m3fn` the values, of the others whole numbers. */
export function decodeCodes(dtype: CodeDType, bytes: Uint8Array): Float32Array {
  switch (dtype) {
    case 'int8':
      return Float32Array.from(new Int8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength));
    case 'float8_e4m3fn':
      return eachTo(new Float32Array(bytes.length), (i) => fromFloat8E4M3Bits(bytes[i]));
    case 'uint4':
      return Float32Array.from(unpackNibbles(bytes));
  }
}

/** Two numbers below 16 in a byte, the first in its low half. */
export function packNibbles(codes: Uint8Array): Uint8Array {
  return eachTo(new Uint8Array(codes.length / 2), (i) => codes[2 * i] | (codes[2 * i + 1] << 4));
}

export function unpackNibbles(bytes: Uint8Array): Uint8Array {
  return eachTo(new Uint8Array(2 * bytes.length), (i) => (bytes[i >> 1] >> (4 * (i & 1))) & 15);
}

/** The array with each of its elements set: many times as fast as `from`. */
function eachTo<T extends Uint8Array | Float32Array>(array: T, valueAt: (i: number) => number): T {
  for (let i = 0; i < array.length; i++) array[i] = valueAt(i);
  return array;
}

/** The elements of a tensor of floats or codes in float32. */
export function decodeTensor({ dtype, bytes }: TensorView): Float32Array {
  if (isFloatDType(dtype)) return decodeFloats(dtype, bytes);
  if (isCodeDType(dtype)) return decodeCodes(dtype, bytes);
  throw new Error(`no numbers are read from a tensor of ${dtype}`);
}
