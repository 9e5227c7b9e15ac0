import { describe, expect, it } from 'vitest';
import { assembleWeight } from './assemble-weight.ts';

const tensors: Record<string, Float32Array> = {
  a: Float32Array.of(1, 2, 3, 4, 5, 6), // [3, 2]
  b: Float32Array.of(1, 2, 3, 4, 5, 6), // stored [2, 3]
  bias: Float32Array.of(7, 8, 9),
};
const read = (name: string): Float32Array => tensors[name];
const whole = { rowStep: 1, columnStart: 0, columnCount: 2, transpose: false };

it('stacks ranges of tensors, transposed ones turned', () => {
  const parts = [
    { name: 'first', tensor: 'a', tensorShape: [3, 2], rowStart: 1, rowCount: 2, ...whole },
    { name: 'second', tensor: 'b', tensorShape: [2, 3], rowStart: 2, rowCount: 1, ...whole, transpose: true },
  ];
  expect([...assembleWeight({ parts }, read)]).toEqual([3, 4, 5, 6, 3, 6]);
});

it('cuts columns, as a shard does', () => {
  const shard = { rowStart: 0, rowCount: 2, rowStep: 1, columnStart: 1, columnCount: 1 };
  const stored = { name: 'w', tensor: 'a', tensorShape: [3, 2], transpose: false };
  expect([...assembleWeight({ parts: [{ ...stored, ...shard }] }, read)]).toEqual([2, 4]);
  const turned = { name: 'w', tensor: 'b', tensorShape: [2, 3], transpose: true };
  expect([...assembleWeight({ parts: [{ ...turned, ...shard }] }, read)]).toEqual([4, 5]);
});

it('takes every second row, and pieces of a tensor with three dimensions as rows of the last', () => {
  // Two experts [2, 3]: their columns 0 and 2 as rows, which a checkpoint interleaves with another weight's.
  const cube = { name: 'w', tensor: 'cube', tensorShape: [2, 2, 3], transpose: true };
  const odd = { rowStart: 0, rowCount: 2, rowStep: 2, columnCount: 2 };
  const parts = [0, 2].map((columnStart) => ({ ...cube, ...odd, columnStart }));
  const values = Float32Array.from({ length: 12 }, (_, i) => i);
  expect([...assembleWeight({ parts }, () => values)]).toEqual([0, 3, 2, 5, 6, 9, 8, 11]);
});

it('takes a range of a vector', () => {
  const part = { name: 'bias', tensor: 'bias', tensorShape: [3], transpose: false };
  const range = { rowStart: 1, rowCount: 2, rowStep: 1, columnStart: 0, columnCount: 1 };
  expect([...assembleWeight({ parts: [{ ...part, ...range }] }, read)]).toEqual([8, 9]);
});

describe('a quantized weight', () => {
  const part = { name: 'w', tensor: 'w', tensorShape: [2, 4], transpose: false, rowStart: 0, rowCount: 2 };
  const parts = [{ ...part, rowStep: 1, columnStart: 0, columnCount: 4 }];
  const format = { dtype: 'int8', groupSize: 2, hasZeros: false } as const;

  it('is made of floats: codes, or scales', () => {
    const floats = (): Float32Array => Float32Array.of(127, 1, 0, 254, -127, 0, 0, 0);
    const values = (holds: 'codes' | 'scales') =>
      [...assembleWeight({ parts, quantization: { format, holds, origin: 'quantize' } }, floats)].map(
        (x) => x + 0,
      );
    expect(values('codes')).toEqual([127, 1, 0, 127, -127, 0, 0, 0]);
    expect(values('scales')).toEqual([1, 2, 1, 1]);
  });

  it('or read as it stands', () => {
    const codes = Float32Array.of(1, 2, 3, 4, 5, 6, 7, 8);
    const quantization = { format, holds: 'codes', origin: 'checkpoint' } as const;
    expect(assembleWeight({ parts, quantization }, () => codes)).toEqual(codes);
  });
});
