// Products of matrices as whoever computes them is asked for them, and the plain way to compute them.

/** Rows of float32 that start `stride` elements apart, the first at the array's start. */
export interface Matrix {
  readonly values: Float32Array;
  readonly stride: number;
}

/** c `[rows, columns]` += a `[rows, depth]` · b `[depth, columns]`. */
export interface MatrixProduct {
  readonly a: Matrix;
  readonly b: Matrix;
  readonly c: Matrix;
  readonly rows: number;
  readonly depth: number;
  readonly columns: number;
  /** The product is: of `c` only the diagonal and what lies below it will be looked at. */
  readonly isSymmetric?: boolean;
}

/** Adds a product to its `c`. */
export type AddProduct = (product: MatrixProduct) => Promise<void>;

/** One thread, one element of `a` after the other. */
export const addProduct: AddProduct = async ({ a, b, c, rows, depth, columns }) => {
  const [x, y, sums] = [a.values, b.values, c.values];
  for (let row = 0; row < rows; row++) {
    const to = row * c.stride;
    for (let k = 0; k < depth; k++) {
      const factor = x[row * a.stride + k];
      const from = k * b.stride;
      for (let column = 0; column < columns; column++) sums[to + column] += factor * y[from + column];
    }
  }
};
