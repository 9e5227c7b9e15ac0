// The dense arithmetic of calibration on row-major matrices: plain loops, four results at a time.

/** a · bᵀ of `a` `[n, size]` and `b` `[m, size]`: `[n, m]`. */
export function timesTransposed(a: Float32Array, b: Float32Array, size: number): Float32Array {
  const [n, m] = [a.length / size, b.length / size];
  const product = new Float32Array(n * m);
  for (let row = 0; row < n; row++) {
    const at = row * size;
    let column = 0;
    for (; column + 4 <= m; column += 4) {
      const [b0, b1, b2, b3] = [0, 1, 2, 3].map((i) => (column + i) * size);
      let [sum0, sum1, sum2, sum3] = [0, 0, 0, 0];
      for (let i = 0; i < size; i++) {
        const x = a[at + i];
        sum0 += x * b[b0 + i];
        sum1 += x * b[b1 + i];
        sum2 += x * b[b2 + i];
        sum3 += x * b[b3 + i];
      }
      product[row * m + column] = sum0;
      product[row * m + column + 1] = sum1;
      product[row * m + column + 2] = sum2;
      product[row * m + column + 3] = sum3;
    }
    for (; column < m; column++) product[row * m + column] = dot(a, at, b, column * size, size);
  }
  return product;
}

function dot(a: Float32Array, aStart: number, b: Float32Array, bStart: number, size: number): number {
  let sum = 0;
  for (let i = 0; i < size; i++) sum += a[aStart + i] * b[bStart + i];
  return sum;
}

/** `values` `[rows, columns]` turned, `[columns, rows]`. */
export function transposed(values: Float32Array, columns: number): Float32Array {
  const rows = values.length / columns;
  const turned = new Float32Array(values.length);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      turned[column * rows + row] = values[row * columns + column];
    }
  }
  return turned;
}

/** `values` `[rows, columns]` with each column times its factor. */
export function withColumnsScaled(values: Float32Array, factors: ArrayLike<number>): Float32Array {
  const columns = factors.length;
  return values.map((value, i) => value * factors[i % columns]);
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

/**
 * The upper triangle U with UᵀU = A⁻¹ for a symmetric A `[size, size]` that is positive definite; throws a RangeError
 * if it is not.
 */
export function inverseUpperCholesky(matrix: Float64Array, size: number): Float64Array {
  return transposeOf(lowerCholesky(inverseOf(lowerCholesky(matrix, size), size), size), size);
}

/** L with LLᵀ = A. */
function lowerCholesky(matrix: Float64Array, size: number): Float64Array {
  const lower = new Float64Array(size * size);
  for (let row = 0; row < size; row++) {
    for (let column = 0; column <= row; column++) {
      let rest = matrix[row * size + column];
      const [a, b] = [row * size, column * size];
      for (let i = 0; i < column; i++) rest -= lower[a + i] * lower[b + i];
      if (row === column && !(rest > 0)) throw new RangeError('the matrix is not positive definite');
      lower[a + column] = row === column ? Math.sqrt(rest) : rest / lower[b + column];
    }
  }
  return lower;
}

/** (LLᵀ)⁻¹ = (L⁻¹)ᵀL⁻¹. */
function inverseOf(lower: Float64Array, size: number): Float64Array {
  // Row j holds column j of L⁻¹, whose first element that is not 0 is the j-th.
  const columns = new Float64Array(size * size);
  for (let column = 0; column < size; column++) {
    const at = column * size;
    columns[at + column] = 1 / lower[column * size + column];
    for (let row = column + 1; row < size; row++) {
      let sum = 0;
      for (let i = column; i < row; i++) sum -= lower[row * size + i] * columns[at + i];
      columns[at + row] = sum / lower[row * size + row];
    }
  }
  const inverse = new Float64Array(size * size);
  for (let a = 0; a < size; a++) {
    for (let b = 0; b <= a; b++) {
      let sum = 0;
      for (let i = a; i < size; i++) sum += columns[a * size + i] * columns[b * size + i];
      inverse[a * size + b] = inverse[b * size + a] = sum;
    }
  }
  return inverse;
}

function transposeOf(matrix: Float64Array, size: number): Float64Array {
  const turned = new Float64Array(size * size);
  for (let i = 0; i < size; i++) for (let j = 0; j < size; j++) turned[j * size + i] = matrix[i * size + j];
  return turned;
}
