import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { addProduct } from '../tensor/matrix-product.ts';
import { factorCholesky, solveCholesky } from './cholesky.ts';
import { damped } from './gram.ts';
import { transposed } from '../tensor/transposed.ts';
import { timesTransposed } from './matrix.ts';

function values(count: number, seed: number): Float32Array {
  return Float32Array.from({ length: count }, (_, i) => Math.sin(seed + 1.7 * i * (i + seed)));
}

async function positiveDefinite(size: number, seed: number): Promise<Float32Array> {
  const rows = transposed(values(2 * size * size, seed), 2 * size);
  return damped(await timesTransposed(rows, rows, 2 * size, addProduct), 0.1);
}

// Beyond one block of columns, and beyond two.
const sizes = fc.oneof(fc.integer({ min: 1, max: 12 }), fc.constantFrom(127, 128, 129, 270));

describe('factorCholesky', () => {
  it('gives a triangle L with LLᵀ = A', async () => {
    const check = async (size: number, seed: number): Promise<void> => {
      const matrix = await positiveDefinite(size, seed);
      const { values: factor } = await factorCholesky(matrix.slice(), size, addProduct);
      const lower = factor.map((value, i) => (i % size > Math.floor(i / size) ? 0 : value));
      const product = await timesTransposed(lower, lower, size, addProduct);
      const largest = Math.max(...matrix.map(Math.abs));
      product.forEach((value, i) => expect(Math.abs(value - matrix[i])).toBeLessThan(1e-5 * largest));
    };
    await fc.assert(fc.asyncProperty(sizes, fc.nat(100), check), { numRuns: 12 });
  });

  it('refuses a matrix that is not positive definite', async () => {
    await expect(factorCholesky(Float32Array.of(1, 2, 2, 1), 2, addProduct)).rejects.toThrow(RangeError);
    await expect(factorCholesky(Float32Array.of(NaN), 1, addProduct)).rejects.toThrow(RangeError);
  });
});

describe('solveCholesky', () => {
  it('multiplies rows by the inverse', async () => {
    const check = async (size: number, seed: number): Promise<void> => {
      const [matrix, rows] = [await positiveDefinite(size, seed), values(3 * size, seed + 1)];
      const factor = await factorCholesky(matrix.slice(), size, addProduct);
      const solved = rows.slice();
      await solveCholesky(factor, solved, addProduct);
      const product = await timesTransposed(solved, matrix, size, addProduct);
      product.forEach((value, i) => expect(value).toBeCloseTo(rows[i], 2));
    };
    await fc.assert(fc.asyncProperty(sizes, fc.nat(100), check), { numRuns: 12 });
  });
});
