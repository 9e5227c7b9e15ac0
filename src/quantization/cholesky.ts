// Cholesky's factorization by blocks of columns, nearly all of which are products of matrices.
import type { AddProduct } from '../tensor/matrix-product.ts';

/** Columns that one product of matrices brings up to date. */
export const BLOCK_COLUMNS = 128;

/**
 * Replaces the lower triangle of a symmetric, positive definite A `[size, size]` by that of L with LLᵀ = A; what lies above
 * the diagonal loses its meaning. Throws a RangeError for any other matrix.
 */
export async function factorCholesky(
  matrix: Float32Array,
  size: number,
  addProduct: AddProduct,
): Promise<void> {
  for (let start = 0; start < size; start += BLOCK_COLUMNS) {
    const end = Math.min(start + BLOCK_COLUMNS, size);
    if (start > 0) {
      // A[start.., start..end] −= L[start.., ..start] · L[start..end, ..start]ᵀ
      await addProduct({
        a: { values: matrix.subarray(start * size), stride: size },
        b: { values: negatedTranspose(matrix, size, start, end), stride: end - start },
        c: { values: matrix.subarray(start * size + start), stride: size },
        rows: size - start,
        depth: start,
        columns: end - start,
      });
    }
    factorColumns(matrix, size, start, end);
  }
}

/** −L[start..end, ..start]ᵀ, `[start, end − start]`. */
function negatedTranspose(matrix: Float32Array, size: number, start: number, end: number): Float32Array {
  const width = end - start;
  const turned = new Float32Array(start * width);
  for (let row = start; row < end; row++) {
    for (let i = 0; i < start; i++) turned[i * width + row - start] = -matrix[row * size + i];
  }
  return turned;
}

/** Columns `start` to `end`, from which what earlier columns explain has been taken. */
function factorColumns(matrix: Float32Array, size: number, start: number, end: number): void {
  for (let row = start; row < size; row++) {
    const a = row * size;
    for (let column = start; column < end && column <= row; column++) {
      const b = column * size;
      let rest = matrix[a + column];
      for (let i = start; i < column; i++) rest -= matrix[a + i] * matrix[b + i];
      if (row === column && !(rest > 0)) throw new RangeError('the matrix is not positive definite');
      matrix[a + column] = row === column ? Math.sqrt(rest) : rest / matrix[b + column];
    }
  }
}

/** Replaces each row y of `values` `[rows, size]` by y·A⁻¹, for the A that `factor` is L of. */
export async function solveCholesky(
  factor: Float32Array,
  size: number,
  values: Float32Array,
  addProduct: AddProduct,
): Promise<void> {
  const rows = values.length / size;
  // z·Lᵀ = y, from the first column on.
  for (let start = 0; start < size; start += BLOCK_COLUMNS) {
    const end = Math.min(start + BLOCK_COLUMNS, size);
    const a = { values, stride: size };
    const b = { values: negatedTranspose(factor, size, start, end), stride: end - start };
    const c = { values: values.subarray(start), stride: size };
    if (start > 0) await addProduct({ a, b, c, rows, depth: start, columns: end - start });
    solveForwards(factor, size, values, start, end);
  }
  // x·L = z, from the last column on.
  const negated = factor.map((value) => -value);
  for (let end = size; end > 0; end -= BLOCK_COLUMNS) {
    const start = Math.max(0, end - BLOCK_COLUMNS);
    const a = { values: values.subarray(end), stride: size };
    const b = { values: negated.subarray(end * size + start), stride: size };
    const c = { values: values.subarray(start), stride: size };
    if (end < size) await addProduct({ a, b, c, rows, depth: size - end, columns: end - start });
    solveBackwards(factor, size, values, start, end);
  }
}

function solveForwards(
  factor: Float32Array,
  size: number,
  values: Float32Array,
  start: number,
  end: number,
): void {
  for (let row = 0; row < values.length; row += size) {
    for (let column = start; column < end; column++) {
      let rest = values[row + column];
      for (let i = start; i < column; i++) rest -= values[row + i] * factor[column * size + i];
      values[row + column] = rest / factor[column * size + column];
    }
  }
}

function solveBackwards(
  factor: Float32Array,
  size: number,
  values: Float32Array,
  start: number,
  end: number,
): void {
  for (let row = 0; row < values.length; row += size) {
    for (let column = end - 1; column >= start; column--) {
      let rest = values[row + column];
      for (let i = column + 1; i < end; i++) rest -= values[row + i] * factor[i * size + column];
      values[row + column] = rest / factor[column * size + column];
    }
  }
}
