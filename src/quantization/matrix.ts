// The dense arithmetic of calibration on row-major matrices.
import type { AddProduct } from '../tensor/matrix-product.ts';
import { transposed } from '../tensor/transposed.ts';

/** a · bᵀ of `a` `[n, size]` and `b` `[m, size]`: `[n, m]`. */
export async function timesTransposed(
  a: Float32Array,
  b: Float32Array,
  size: number,
  addProduct: AddProduct,
): Promise<Float32Array> {
  const [n, m] = [a.length / size, b.length / size];
  const product = new Float32Array(n * m);
  await addProduct({
    a: { values: a, stride: size },
    b: { values: transposed(b, m), stride: m },
    c: { values: product, stride: m },
    rows: n,
    depth: size,
    columns: m,
  });
  return product;
}

/** `values` `[rows, columns]` with each column times its factor. */
export function withColumnsScaled(values: Float32Array, factors: ArrayLike<number>): Float32Array {
  const columns = factors.length;
  const scaled = new Float32Array(values.length);
  for (let row = 0; row < values.length; row += columns) {
    for (let column = 0; column < columns; column++)
      scaled[row + column] = values[row + column] * factors[column];
  }
  return scaled;
}

/** At most `count` rows, evenly spread. */
export function someRows(values: Float32Array, columns: number, count: number): Float32Array {
  const rows = values.length / columns;
  if (rows <= count) return values;
  const chosen = new Float32Array(count * columns);
  for (let i = 0; i < count; i++) {
    const start = Math.floor((i * rows) / count) * columns;
    chosen.set(values.subarray(start, start + columns), i * columns);
  }
  return chosen;
}
