// The inner loops of the interpreter, summed in float64: products of two vectors, and sums of weighted ones.

/** Σ a[aStart + i] · b[bStart + i]; four sums at a time, since one would wait for its own additions. */
export function dot(
  a: Float32Array,
  aStart: number,
  b: Float32Array,
  bStart: number,
  length: number,
): number {
  let sum0 = 0;
  let sum1 = 0;
  let sum2 = 0;
  let sum3 = 0;
  let i = 0;
  for (; i + 3 < length; i += 4) {
    sum0 += a[aStart + i] * b[bStart + i];
    sum1 += a[aStart + i + 1] * b[bStart + i + 1];
    sum2 += a[aStart + i + 2] * b[bStart + i + 2];
    sum3 += a[aStart + i + 3] * b[bStart + i + 3];
  }
  for (; i < length; i++) sum0 += a[aStart + i] * b[bStart + i];
  return sum0 + sum1 + (sum2 + sum3);
}

/** sum += factor · values[start…]. */
export function addScaled(sum: Float64Array, values: Float32Array, start: number, factor: number): void {
  for (let i = 0; i < sum.length; i++) sum[i] += factor * values[start + i];
}
