// Gram matrices of what products read: summed up piece by piece, their diagonals, and damped ones.
import type { AddProduct } from '../tensor/matrix-product.ts';
import { transposed } from './matrix.ts';

/** XᵀY / numRows of rows x `[numRows, n]` and y `[numRows, m]` that come piece by piece: `[n, m]`. */
export class CrossGram {
  readonly #sums: Float32Array;
  readonly #columns: readonly [number, number];
  readonly #addProduct: AddProduct;
  #numRows = 0;
  /** All y were their x: half of the sums says all. */
  #isSymmetric = true;

  constructor(n: number, m: number, addProduct: AddProduct) {
    this.#sums = new Float32Array(n * m);
    this.#columns = [n, m];
    this.#addProduct = addProduct;
  }

  async add(x: Float32Array, y: Float32Array): Promise<void> {
    const [n, m] = this.#columns;
    const numRows = x.length / n;
    this.#numRows += numRows;
    this.#isSymmetric &&= x === y;
    await this.#addProduct({
      a: { values: transposed(x, n), stride: numRows },
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
