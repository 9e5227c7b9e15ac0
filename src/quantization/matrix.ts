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
