// The two 8-bit floating-point formats (Micikevicius et al., "FP8 formats for deep learning", 2022), rounded exactly.

interface Float8Format {
  readonly mantissaBits: number;
  readonly bias: number;
  /** The largest finite number. */
  readonly maxBits: number;
  /** What infinities stand at; null for a format without them. */
  readonly infinityBits: number | null;
}

/** Four bits of exponent, three of mantissa, no infinities: up to ±448. */
const E4M3: Float8Format = { mantissaBits: 3, bias: 7, maxBits: 0x7e, infinityBits: null };
/** Five bits of exponent, two of mantissa: the upper half of a float16, up to ±57344. */
const E5M2: Float8Format = { mantissaBits: 2, bias: 15, maxBits: 0x7b, infinityBits: 0x7c };

const NAN_BITS = 0x7f;

export const FLOAT8_E4M3_MAX = 448;

/** The 8 bits of the e4m3 nearest to `value` (ties to even); what lies beyond ±448 becomes ±448, NaN stays NaN. */
export function toFloat8E4M3Bits(value: number): number {
  return encode(value, E4M3);
}

/** The value of an e4m3 given as 8 bits. */
export function fromFloat8E4M3Bits(bits: number): number {
  return E4M3_VALUES[bits & 0xff];
}

/** The 8 bits of the e5m2 nearest to `value` (ties to even); what lies beyond ±57344 becomes ±57344, NaN stays NaN. */
export function toFloat8E5M2Bits(value: number): number {
  return encode(value, E5M2);
}

/** The value of an e5m2 given as 8 bits. */
export function fromFloat8E5M2Bits(bits: number): number {
  return decode(bits, E5M2);
}

/** `value` as it survives storage in e4m3. */
export function roundToFloat8E4M3(value: number): number {
  return E4M3_VALUES[encode(value, E4M3)];
}

const scratchF32 = new Float32Array(1);
const scratchU32 = new Uint32Array(scratchF32.buffer);

function encode(value: number, { mantissaBits, bias, maxBits }: Float8Format): number {
  scratchF32[0] = value;
  const bits = scratchU32[0];
  const sign = (bits >>> 24) & 0x80;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | NAN_BITS;
  const dropped = 23 - mantissaBits;
  const smallestNormal = (128 - bias) << 23; // as a float32: exponent 1 of ours is 1 − bias + 127 of its
  if (magnitude < smallestNormal) {
    // Adding a number whose last bit is the smallest subnormal leaves the wanted bits, rounded, at its end.
    const magic = (150 - bias + 1 - mantissaBits) << 23;
    scratchU32[0] = magic;
    const anchor = scratchF32[0];
    scratchU32[0] = magnitude;
    scratchF32[0] = scratchF32[0] + anchor;
    return sign | (scratchU32[0] - magic);
  }
  const rebased = magnitude - ((127 - bias) << 23);
  const rounded = (rebased + (1 << (dropped - 1)) - 1 + ((rebased >>> dropped) & 1)) >>> dropped;
  return sign | Math.min(rounded, maxBits);
}

function decode(bits: number, { mantissaBits, bias, maxBits, infinityBits }: Float8Format): number {
  const sign = bits & 0x80 ? -1 : 1;
  const magnitude = bits & 0x7f;
  if (magnitude > maxBits) return magnitude === infinityBits ? sign * Infinity : NaN;
  const exponent = magnitude >>> mantissaBits;
  const mantissa = (magnitude & ((1 << mantissaBits) - 1)) / (1 << mantissaBits);
  return exponent === 0 ? sign * mantissa * 2 ** (1 - bias) : sign * (1 + mantissa) * 2 ** (exponent - bias);
}

const E4M3_VALUES = Float32Array.from({ length: 256 }, (_, bits) => decode(bits, E4M3));
