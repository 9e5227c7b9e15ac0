// Quantized rows: numbers by hand, the error bound of every format, and what has no scale.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { roundEven } from './dtype.ts';
import { dequantizeRows, quantizeRows, quantizeWithScale } from './quantize-rows.ts';
import type { GroupedFormat } from './weight-format.ts';

const INT8: GroupedFormat = { dtype: 'int8', groupSize: 4, hasZeros: false };
const FP8: GroupedFormat = { dtype: 'float8_e4m3fn', groupSize: 4, hasZeros: false };
const UINT4: GroupedFormat = { dtype: 'uint4', groupSize: 4, hasZeros: true };
const UINT4_SYMMETRIC: GroupedFormat = { dtype: 'uint4', groupSize: 4, hasZeros: false };

describe('by hand', () => {
  it('int8: the largest value is 127, ties go to the even code', () => {
    const { codes, scales } = quantizeRows(Float32Array.of(127, -0.5, 1.5, 2.5, 1, -2, 0, 0.5), INT8);
    expect([...scales]).toEqual([1, Math.fround(2 / 127)]);
    expect([...codes].map((code) => code + 0)).toEqual([127, 0, 2, 2, 64, -127, 0, 32]);
  });

  it('uint4 with zeros: the range always includes 0', () => {
    const { codes, scales } = quantizeRows(Float32Array.of(-5, 10, 0, 2.5, 3, 7.5, 15, 1), UINT4);
    expect([...scales]).toEqual([1, 5, 1, 0]);
    expect([...codes]).toEqual([0, 15, 5, 7, 3, 8, 15, 1]);
  });

  it('uint4 without zeros has its zero at 8', () => {
    const { codes, scales } = quantizeRows(Float32Array.of(-7, 7, 0, 3), UINT4_SYMMETRIC);
    expect([...scales]).toEqual([1]);
    expect([...codes]).toEqual([1, 15, 8, 11]);
  });

  it('float8: codes are the values they stand for', () => {
    const { codes, scales } = quantizeRows(Float32Array.of(896, 2.1, -1, 0), FP8);
    expect([...scales]).toEqual([2]);
    expect([...codes]).toEqual([448, 1, -0.5, 0]);
  });

  it('a scale that is given saturates', () => {
    expect([...quantizeWithScale(Float32Array.of(1, 300, -300), 2, 'int8')]).toEqual([0, 127, -127]);
    expect([...quantizeWithScale(Float32Array.of(1, 3000), 2, 'float8_e4m3fn')]).toEqual([0.5, 448]);
  });
});

describe('what has no scale', () => {
  it.each([INT8, FP8, UINT4, UINT4_SYMMETRIC])('zeros, in $dtype', (format) => {
    const values = new Float32Array(4);
    const { codes, scales } = quantizeRows(values, format);
    expect(scales[0]).toBe(1);
    expect([...dequantizeRows(codes, scales, format)]).toEqual([...values]);
  });

  it.each([INT8, FP8, UINT4, UINT4_SYMMETRIC])('values too small for one, in $dtype', (format) => {
    const { codes, scales } = quantizeRows(Float32Array.of(1e-45, 0, 0, -1e-45), format);
    expect([...dequantizeRows(codes, scales, format)].map(Math.abs)).toEqual([0, 0, 0, 0]);
  });

  it.each([INT8, FP8, UINT4, UINT4_SYMMETRIC])('NaN and infinity show, in $dtype', (format) => {
    for (const bad of [NaN, Infinity, -Infinity]) {
      expect(quantizeRows(Float32Array.of(1, bad, 2, 3), format).scales[0]).not.toSatisfy(Number.isFinite);
    }
  });
});

it('every value comes back within half a step, or for float8 within 1/16 of it', () => {
  const formats = fc.constantFrom(INT8, FP8, UINT4, UINT4_SYMMETRIC);
  const values = fc.float32Array({ minLength: 4, maxLength: 4, min: -1000, max: 1000, noNaN: true });
  fc.assert(
    fc.property(formats, values, (format, row) => {
      const { codes, scales } = quantizeRows(row, format);
      // A scale below the normal numbers has few bits left, and is rounded as coarsely.
      fc.pre(scales[0] >= 2 ** -126);
      dequantizeRows(codes, scales, format).forEach((value, i) => {
        const isFloat = format.dtype === 'float8_e4m3fn';
        const step = isFloat ? Math.max(Math.abs(row[i]) / 8, scales[0] * 2 ** -9) : scales[0];
        // The zero of uint4 is rounded by itself, so an end of the range may miss its code by one.
        const bound = format.hasZeros ? 1.001 * step : 0.501 * step;
        expect(Math.abs(value - row[i])).toBeLessThanOrEqual(bound);
      });
    }),
  );
});

it('roundEven rounds half to even', () => {
  expect([0.5, 1.5, 2.5, -0.5, -1.5, 2.4999, 1e15 + 0.5].map((x) => roundEven(x) + 0)).toEqual([
    0, 2, 2, 0, -2, 2, 1e15,
  ]);
  expect(roundEven(NaN)).toBe(0);
});
