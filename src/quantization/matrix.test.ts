import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { addProduct } from '../tensor/matrix-product.ts';
import { transposed } from '../tensor/transposed.ts';
import { someRows, timesTransposed, withColumnsScaled } from './matrix.ts';

const sizes = fc.record({ n: fc.integer({ min: 1, max: 9 }), size: fc.integer({ min: 1, max: 11 }) });

function values(count: number, seed: number): Float32Array {
  return Float32Array.from({ length: count }, (_, i) => Math.sin(seed + 1.7 * i * (i + seed)));
}

describe('timesTransposed', () => {
  it('multiplies rows with rows', async () => {
    const [a, b] = [Float32Array.of(1, 2, 3, 4), Float32Array.of(5, 6, 7, 8, 9, 10)];
    const product = await timesTransposed(a, b, 2, addProduct);
    expect([...product]).toEqual([17, 23, 29, 39, 53, 67]);
  });

  it('is symmetric in its operands', async () => {
    const check = fc.asyncProperty(sizes, fc.integer({ min: 1, max: 9 }), async ({ n, size }, m) => {
      const [a, b] = [values(n * size, 1), values(m * size, 2)];
      const [one, other] = [
        await timesTransposed(a, b, size, addProduct),
        await timesTransposed(b, a, size, addProduct),
      ];
      expect(transposed(one, n)).toEqual(other);
    });
    await fc.assert(check);
  });
});

it('someRows takes rows that are evenly spread', () => {
  expect([...someRows(Float32Array.of(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11), 2, 3)]).toEqual([
    0, 1, 4, 5, 8, 9,
  ]);
});

it('withColumnsScaled multiplies each column by its factor', () => {
  expect([...withColumnsScaled(Float32Array.of(1, 2, 3, 4), [2, 10])]).toEqual([2, 20, 6, 40]);
});
