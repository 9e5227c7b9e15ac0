// Number formats of tensors: names, sizes, and conversions with exact round-to-nearest-even.

/** The types that weights, activations and KV cache can take in a 16- or 32-bit recipe. */
export type FloatDType = 'float32' | 'bfloat16' | 'float16';

/** What quantized numbers are written as: a code stands for (code − zero) · scale. */
export type CodeDType = 'int8' | 'uint4' | 'float8_e4m3fn';

/** The types that keys and values can have in the cache. */
export type KVCacheDType = FloatDType | 'float8_e4m3fn' | 'int8';

/** A tensor's element type, spelled as Hugging Face configs spell it. */
export type DType = FloatDType | CodeDType | 'int32' | 'uint8';

const ITEM_SIZE: Record<DType, number> = {
  float32: 4,
  bfloat16: 2,
  float16: 2,
  int32: 4,
  int8: 1,
  uint8: 1,
  uint4: 0.5,
  float8_e4m3fn: 1,
};

/** Bytes of one element; two codes of `uint4` share a byte, the one of the even column in its low half. */
export function itemSize(dtype: DType): number {
  return ITEM_SIZE[dtype];
}

export function isFloatDType(name: string): name is FloatDType {
  return name === 'float32' || name === 'bfloat16' || name === 'float16';
}

export function isCodeDType(name: string): name is CodeDType {
  return name === 'int8' || name === 'uint4' || name === 'float8_e4m3fn';
}

/** Bytes of a head's numbers in a KV cache; those of `int8` have a float16 scale. */
export function kvHeadBytes(headDim: number, dtype: KVCacheDType): number {
  return headDim * itemSize(dtype) + (dtype === 'int8' ? itemSize('float16') : 0);
}

/** The whole number nearest to `value`, of two the even one; exact up to 2⁵¹. NaN becomes 0. */
export function roundEven(value: number): number {
  const shifted = value + 6755399441055744 - 6755399441055744; // 1.5 · 2⁵²
  return Number.isNaN(shifted) ? 0 : shifted;
}

const scratchF32 = new Float32Array(1);
const scratchU32 = new Uint32Array(scratchF32.buffer);

/** The 16 bits of the bfloat16 nearest to `value` (ties to even; NaN stays NaN). */
export function toBfloat16Bits(value: number): number {
  scratchF32[0] = value;
  const bits = scratchU32[0];
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 0x40;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

/** The value of a bfloat16 given as 16 bits. */
export function fromBfloat16Bits(bits: number): number {
  scratchU32[0] = bits << 16;
  return scratchF32[0];
}

/** The 16 bits of the IEEE half nearest to `value` (ties to even, overflow to infinity). */
export function toFloat16Bits(value: number): number {
  scratchF32[0] = value;
  const bits = scratchU32[0];
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x477ff000) return sign | 0x7c00; // 65520 and above round to infinity
  if (magnitude < 0x38800000) {
    // Subnormal half: adding 0.5 in float32 leaves the wanted 10 bits, rounded, at the bottom of the mantissa.
    scratchU32[0] = magnitude;
    scratchF32[0] = scratchF32[0] + 0.5;
    return sign | (scratchU32[0] - 0x3f000000);
  }
  return sign | ((magnitude - 0x38000000 + 0x0fff + ((magnitude >>> 13) & 1)) >>> 13);
}

/** The value of an IEEE half given as 16 bits. */
export function fromFloat16Bits(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >>> 10) & 0x1f;
  const mantissa = bits & 0x3ff;
  if (exponent === 0) return sign * mantissa * 2 ** -24;
  if (exponent === 31) return mantissa ? NaN : sign * Infinity;
  return sign * (1 + mantissa / 1024) * 2 ** (exponent - 15);
}

/** `value` as it survives storage in `dtype`. */
export function roundTo(dtype: FloatDType, value: number): number {
  if (dtype === 'float32') return Math.fround(value);
  return dtype === 'bfloat16'
    ? fromBfloat16Bits(toBfloat16Bits(value))
    : fromFloat16Bits(toFloat16Bits(value));
}

/** Decode little-endian `bytes` of a float type into float32. `bytes.length` must be a multiple of the item size. */
export function decodeFloats(dtype: FloatDType, bytes: Uint8Array): Float32Array {
  const count = bytes.byteLength / itemSize(dtype);
  const aligned = bytes.byteOffset % itemSize(dtype) === 0 ? bytes : bytes.slice();
  if (dtype === 'float32') return new Float32Array(aligned.buffer, aligned.byteOffset, count).slice();
  const bits = new Uint16Array(aligned.buffer, aligned.byteOffset, count);
  if (dtype === 'bfloat16') return decodeBfloat16(bits);
  const floats = new Float32Array(count);
  for (let i = 0; i < count; i++) floats[i] = fromFloat16Bits(bits[i]);
  return floats;
}

/** Several times as fast as number by number: whole models are decoded so. */
function decodeBfloat16(bits: Uint16Array): Float32Array {
  const words = new Uint32Array(bits.length);
  for (let i = 0; i < bits.length; i++) words[i] = bits[i] << 16;
  return new Float32Array(words.buffer);
}

/** The little-endian bytes of `values` rounded to `dtype`. */
export function encodeFloats(dtype: FloatDType, values: Float32Array): Uint8Array {
  if (dtype === 'float32') return new Uint8Array(values.slice().buffer);
  const encode = dtype === 'bfloat16' ? toBfloat16Bits : toFloat16Bits;
  // A loop: `Uint16Array.from` takes many times as long.
  const bits = new Uint16Array(values.length);
  for (let i = 0; i < values.length; i++) bits[i] = encode(values[i]);
  return new Uint8Array(bits.buffer);
}
