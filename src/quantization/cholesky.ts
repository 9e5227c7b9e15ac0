// Cholesky's factorization and what it solves, by blocks of columns: all but the triangles of single blocks are products of
// matrices.
import type { AddProduct, Matrix } from '../tensor/matrix-product.ts';
import { transposed } from '../tensor/transposed.ts';

/** Columns that one product of matrices brings up to date. */
export const BLOCK_COLUMNS = 128;

/** L with LLᵀ = A, a symmetric, positive definite matrix `[size, size]`, in blocks of BLOCK_COLUMNS rows and columns. */
export interface CholeskyFactor {
  readonly size: number;
  /** Below the diagonal blocks L, above them −Lᵀ, so that products read either; theirs are L's below their own diagonal. */
  readonly values: Float32Array;
  /** Of the diagonal blocks of L, `[width, width]` each. */
  readonly inverses: readonly Float32Array[];
}

/** Takes the matrix's array for the factor's values. Throws a RangeError for one that is not positive definite. */
export async function factorCholesky(
  matrix: Float32Array,
  size: number,
  addProduct: AddProduct,
): Promise<CholeskyFactor> {
  const inverses: Float32Array[] = [];
  for (let start = 0; start < size; start += BLOCK_COLUMNS) {
    const end = Math.min(start + BLOCK_COLUMNS, size);
    if (start > 0) {
      // A[start.., start..end] −= L[start.., ..start] · L[start..end, ..start]ᵀ
      await addProduct({
        a: { values: matrix.subarray(start * size), stride: size },
        b: { values: matrix.subarray(start), stride: size },
        c: { values: matrix.subarray(start * size + start), stride: size },
        rows: size - start,
        depth: start,
        columns: end - start,
      });
    }
    factorTriangle(matrix, size, start, end);
    const inverse = inverseTriangle(matrix, size, start, end);
    inverses.push(inverse);
    if (end === size) break;
    // L[end.., start..end] · L[start..end, start..end]ᵀ = A
    const below = { values: matrix.subarray(end * size + start), stride: size };
    await multiplyInPlace(below, transposed(inverse, end - start), addProduct);
    mirrorBelow(matrix, size, start, end);
  }
  return { size, values: matrix, inverses };
}

/** L of the diagonal block from which what earlier columns explain has been taken. */
function factorTriangle(matrix: Float32Array, size: number, start: number, end: number): void {
  for (let row = start; row < end; row++) {
    const a = row * size;
    for (let column = start; column <= row; column++) {
      const b = column * size;
      let rest = matrix[a + column];
      for (let i = start; i < column; i++) rest -= matrix[a + i] * matrix[b + i];
      if (row === column && !(rest > 0)) throw new RangeError('the matrix is not positive definite');
      matrix[a + column] = row === column ? Math.sqrt(rest) : rest / matrix[b + column];
    }
  }
}

/** Of the triangle in a diagonal block, `[end − start, end − start]`. */
function inverseTriangle(factor: Float32Array, size: number, start: number, end: number): Float32Array {
  const width = end - start;
  const inverse = new Float64Array(width * width);
  for (let row = 0; row < width; row++) {
    const line = (start + row) * size + start;
    inverse[row * width + row] = 1 / factor[line + row];
    for (let column = 0; column < row; column++) {
      let sum = 0;
      for (let i = column; i < row; i++) sum += factor[line + i] * inverse[i * width + column];
      inverse[row * width + column] = -sum / factor[line + row];
    }
  }
  return Float32Array.from(inverse);
}

function mirrorBelow(factor: Float32Array, size: number, start: number, end: number): void {
  for (let row = end; row < size; row++) {
    for (let column = start; column < end; column++) {
      factor[column * size + row] = -factor[row * size + column];
    }
  }
}

/** Replaces each row y of `values` `[rows, size]` by y·A⁻¹, for the A that was factored. */
export async function solveCholesky(
  { size, values: factor, inverses }: CholeskyFactor,
  values: Float32Array,
  addProduct: AddProduct,
): Promise<void> {
  const rows = values.length / size;
  const columnsAt = (start: number) => ({ values: values.subarray(start), stride: size });
  // z·Lᵀ = y, from the first column on.
  for (const [i, inverse] of inverses.entries()) {
    const start = i * BLOCK_COLUMNS;
    const width = Math.sqrt(inverse.length);
    const [a, c] = [columnsAt(0), columnsAt(start)];
    const b = { values: factor.subarray(start), stride: size };
    if (start > 0) await addProduct({ a, b, c, rows, depth: start, columns: width });
    await multiplyInPlace(c, transposed(inverse, width), addProduct);
  }
  // −x·L = −z, from the last column on; the sign is that of the products.
  for (const [i, inverse] of [...inverses.entries()].reverse()) {
    const start = i * BLOCK_COLUMNS;
    const width = Math.sqrt(inverse.length);
    const end = start + width;
    const [a, c] = [columnsAt(end), columnsAt(start)];
    const b = { values: factor.subarray(end * size + start), stride: size };
    if (end < size) await addProduct({ a, b, c, rows, depth: size - end, columns: width });
    await multiplyInPlace(
      c,
      inverse.map((value) => -value),
      addProduct,
    );
  }
  for (let i = 0; i < values.length; i++) values[i] = -values[i];
}

/** Multiplies the first columns of a matrix, to the end of its array, with `factor` `[width, width]`. */
async function multiplyInPlace(a: Matrix, factor: Float32Array, addProduct: AddProduct): Promise<void> {
  const { values, stride } = a;
  const width = Math.sqrt(factor.length);
  const rows = Math.ceil(values.length / stride);
  const c = { values: new Float32Array(rows * width), stride: width };
  await addProduct({ a, b: { values: factor, stride: width }, c, rows, depth: width, columns: width });
  for (let row = 0; row < rows; row++) {
    values.set(c.values.subarray(row * width, (row + 1) * width), row * stride);
  }
}
