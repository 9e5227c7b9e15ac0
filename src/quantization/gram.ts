// Gram matrices of what products read: summed up piece by piece, their diagonals, and damped ones.
import type { AddProduct } from '../tensor/matrix-product.ts';

/** XᵀY / numRows of rows x `[numRows, n]` and y `[numRows, m]` that come piece by piece: `[n, m]`. */
export class CrossGram {
  readonly #sums: Float32Array;
  readonly #columns: readonly [number, number];
  readonly #addProduct: AddProduct;
  /** Xᵀ of the last piece: fresh memory would cost more than what is computed in it. */
  #turned = new Float32Array(0);
  #numRows = 0;
  /** All y were their x so far: half of the sums says all. */
  #isSymmetric = true;

  constructor(n: number, m: number, addProduct: AddProduct) {
    this.#sums = new Float32Array(n * m);
    this.#columns = [n, m];
    this.#addProduct = addProduct;
  }

  /** One piece after the other: rows `x`, or what they are above `base`, and rows `y`. */
  async add(x: Float32Array, y: Float32Array, base: Float32Array | null = null): Promise<void> {
    const [n, m] = this.#columns;
    const numRows = x.length / n;
    this.#numRows += numRows;
    const isSymmetric = x === y && base === null;
    if (this.#isSymmetric && !isSymmetric && n === m) mirrorLower(this.#sums, n);
    this.#isSymmetric &&= isSymmetric;
    if (this.#turned.length !== x.length) this.#turned = new Float32Array(x.length);
    turnInto(this.#turned, x, n, base);
    await this.#addProduct({
      a: { values: this.#turned, stride: numRows },
      b: { values: y, stride: m },
      c: { values: this.#sums, stride: m },
      rows: n,
      depth: numRows,
      columns: m,
      isSymmetric: this.#isSymmetric,
    });
  }

  /** Takes the sums for it: it is the last that is asked for. */
  mean(): Float32Array {
    const sums = this.#sums;
    for (let i = 0; i < sums.length; i++) sums[i] /= this.#numRows;
    if (this.#isSymmetric) mirrorLower(sums, this.#columns[0]);
    return sums;
  }
}

/** Columns that are turned at once, so that what is written stays in the cache. */
const TURNED_COLUMNS = 32;

/** `values` `[rows, columns]`, or what they are above `base`, turned: `[columns, rows]`. */
function turnInto(
  turned: Float32Array,
  values: Float32Array,
  columns: number,
  base: Float32Array | null,
): void {
  const rows = values.length / columns;
  for (let start = 0; start < columns; start += TURNED_COLUMNS) {
    const end = Math.min(start + TURNED_COLUMNS, columns);
    for (let row = 0; row < rows; row++) {
      const line = row * columns;
      for (let column = start; column < end; column++) {
        turned[column * rows + row] =
          base === null ? values[line + column] : values[line + column] - base[line + column];
      }
    }
  }
}

/** Copies what lies below the diagonal to what lies above it. */
function mirrorLower(matrix: Float32Array, size: number): void {
  for (let row = 0; row < size; row++) {
    for (let column = 0; column < row; column++) matrix[column * size + row] = matrix[row * size + column];
  }
}

export function diagonalOf(gram: Float32Array): Float32Array {
  const columns = Math.sqrt(gram.length);
  return Float32Array.from({ length: columns }, (_, i) => gram[i * (columns + 1)]);
}

/** With a share of its mean added to the diagonal; inputs that are always 0 count as 1, for their weights mean nothing. */
export function damped(gram: Float32Array, damping: number): Float32Array {
  const diagonal = diagonalOf(gram);
  const extra = damping * (diagonal.reduce((a, b) => a + b, 0) / diagonal.length);
  const matrix = gram.slice();
  diagonal.forEach((value, i) => (matrix[i * (diagonal.length + 1)] = value === 0 ? 1 : value + extra));
  return matrix;
}
