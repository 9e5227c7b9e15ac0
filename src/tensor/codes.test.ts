// Codes survive their bytes.
import { expect, it } from 'vitest';
import { decodeCodes, decodeTensor, encodeCodes } from './codes.ts';

it('int8 and float8 take a byte each', () => {
  expect([...encodeCodes('int8', Float32Array.of(1, -127, 127))]).toEqual([1, 0x81, 0x7f]);
  expect([...decodeCodes('int8', Uint8Array.of(1, 0x81, 0x7f))]).toEqual([1, -127, 127]);
  expect([...encodeCodes('float8_e4m3fn', Float32Array.of(1, -448))]).toEqual([0x38, 0xfe]);
  expect([...decodeCodes('float8_e4m3fn', Uint8Array.of(0x38, 0xfe))]).toEqual([1, -448]);
});

it('uint4 has the even column in the low half', () => {
  expect([...encodeCodes('uint4', Float32Array.of(1, 15, 8, 0))]).toEqual([0xf1, 0x08]);
  expect([...decodeCodes('uint4', Uint8Array.of(0xf1, 0x08))]).toEqual([1, 15, 8, 0]);
});

it('decodes floats and codes, and nothing else', () => {
  expect([...decodeTensor({ dtype: 'bfloat16', shape: [1], bytes: Uint8Array.of(0x80, 0x3f) })]).toEqual([1]);
  expect([...decodeTensor({ dtype: 'uint4', shape: [2], bytes: Uint8Array.of(0x21) })]).toEqual([1, 2]);
  expect(() => decodeTensor({ dtype: 'int32', shape: [1], bytes: new Uint8Array(4) })).toThrow('int32');
});
