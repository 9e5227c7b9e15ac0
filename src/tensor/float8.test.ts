// Every code of both formats against their definitions, and the values between codes against the nearest one.
import { describe, expect, it } from 'vitest';
import {
  FLOAT8_E4M3_MAX,
  fromFloat8E4M3Bits,
  fromFloat8E5M2Bits,
  roundToFloat8E4M3,
  toFloat8E4M3Bits,
  toFloat8E5M2Bits,
} from './float8.ts';

/** What the bits mean by the formats' definition. */
function defined(bits: number, exponentBits: number, bias: number): number {
  const mantissaBits = 7 - exponentBits;
  const exponent = (bits & 0x7f) >> mantissaBits;
  const mantissa = bits & (2 ** mantissaBits - 1);
  const magnitude =
    exponent === 0
      ? mantissa * 2 ** (1 - bias - mantissaBits)
      : (2 ** mantissaBits + mantissa) * 2 ** (exponent - bias - mantissaBits);
  return bits & 0x80 ? -magnitude : magnitude;
}

const FORMATS = [
  {
    name: 'e4m3',
    max: FLOAT8_E4M3_MAX,
    maxBits: 0x7e,
    value: (bits: number) => ((bits & 0x7f) === 0x7f ? NaN : defined(bits, 4, 7)),
    encode: toFloat8E4M3Bits,
    decode: fromFloat8E4M3Bits,
  },
  {
    name: 'e5m2',
    max: 57344,
    maxBits: 0x7b,
    value: (bits: number) => {
      if ((bits & 0x7f) === 0x7c) return bits & 0x80 ? -Infinity : Infinity;
      return (bits & 0x7f) > 0x7c ? NaN : defined(bits, 5, 15);
    },
    encode: toFloat8E5M2Bits,
    decode: fromFloat8E5M2Bits,
  },
];

describe.each(FORMATS)('$name', ({ max, maxBits, value, encode, decode }) => {
  it('decodes all 256 codes', () => {
    for (let bits = 0; bits < 256; bits++) expect(decode(bits)).toBe(value(bits));
    expect(decode(maxBits)).toBe(max);
  });

  it('encodes every finite value to its code', () => {
    for (let bits = 0; bits < 256; bits++) {
      if (Number.isFinite(value(bits))) expect(encode(value(bits))).toBe(bits);
    }
  });

  it('rounds to the nearest code, ties to the even one', () => {
    for (let bits = 0; bits < maxBits; bits++) {
      const [low, high] = [value(bits), value(bits + 1)];
      const middle = (low + high) / 2;
      const nudge = (high - low) / 1024;
      for (const [sign, signBit] of [
        [1, 0],
        [-1, 0x80],
      ]) {
        expect(encode(sign * middle)).toBe(signBit | (bits % 2 === 0 ? bits : bits + 1));
        expect(encode(sign * (middle - nudge))).toBe(signBit | bits);
        expect(encode(sign * (middle + nudge))).toBe(signBit | (bits + 1));
      }
    }
  });

  it('saturates, and keeps NaN', () => {
    for (const large of [max * 1.01, max * 2, 3e38, Infinity]) {
      expect(encode(large)).toBe(maxBits);
      expect(encode(-large)).toBe(0x80 | maxBits);
    }
    expect(decode(encode(NaN))).toBeNaN();
    expect(Object.is(decode(encode(-0)), -0)).toBe(true);
    expect(encode(1e-40)).toBe(0);
  });
});

it('roundToFloat8E4M3 is decode of encode', () => {
  expect([0.1, 1.07, -300, 1000].map(roundToFloat8E4M3)).toEqual([0.1015625, 1.125, -288, 448]);
});
