import fc from 'fast-check';
import { expect, it } from 'vitest';
import { addProduct, type AddProduct } from '../tensor/matrix-product.ts';
import { CrossGram } from './gram.ts';

function values(count: number, seed: number): Float32Array {
  return Float32Array.from({ length: count }, (_, i) => Math.sin(seed + 1.7 * i * (i + seed)));
}

/** Leaves what lies above the diagonal alone where it may. */
const addLower: AddProduct = async (product) => {
  const { c, rows, columns, isSymmetric } = product;
  const before = c.values.slice();
  await addProduct(product);
  for (let row = 0; isSymmetric && row < rows; row++) {
    for (let column = row + 1; column < columns; column++) {
      c.values[row * c.stride + column] = before[row * c.stride + column];
    }
  }
};

it('CrossGram is the mean of the rows’ products, in whatever pieces they come', async () => {
  const sizes = fc.record({ n: fc.integer({ min: 1, max: 9 }), numRows: fc.integer({ min: 2, max: 9 }) });
  const kinds = fc.constantFrom('with itself', 'with another', 'less a base');
  const check = async ({ n, numRows }: { n: number; numRows: number }, kind: string): Promise<void> => {
    const isSame = kind !== 'with another';
    const base = kind === 'less a base' ? values(numRows * n, 3) : null;
    const m = isSame ? n : n + 2;
    const x = values(numRows * n, 1);
    const y = isSame ? x : values(numRows * m, 2);
    const gram = new CrossGram(n, m, addLower);
    for (const [start, end] of [
      [0, 1],
      [1, numRows],
    ]) {
      const piece = x.subarray(start * n, end * n);
      const other = isSame ? piece : y.subarray(start * m, end * m);
      await gram.add(piece, other, base && base.subarray(start * n, end * n));
    }
    gram.mean().forEach((value, i) => {
      const [a, b] = [Math.floor(i / m), i % m];
      let sum = 0;
      for (let row = 0; row < numRows; row++) {
        sum += (x[row * n + a] - (base?.[row * n + a] ?? 0)) * y[row * m + b];
      }
      expect(value).toBeCloseTo(sum / numRows, 5);
    });
  };
  await fc.assert(fc.asyncProperty(sizes, kinds, check), { numRuns: 30 });
});

it('CrossGram goes on with other rows after rows with themselves', async () => {
  const gram = new CrossGram(2, 2, addLower);
  const [x, y] = [Float32Array.of(1, 2), Float32Array.of(3, 4)];
  await gram.add(x, x);
  await gram.add(x, y);
  // (xᵀx + xᵀy) / 2
  expect([...gram.mean()]).toEqual([2, 3, 4, 6]);
});
