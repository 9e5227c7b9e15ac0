// Scales and zeros of 4-bit codes by search: a group's range may be cut at either end where that costs a product less than
// it saves in rounding.
import type { CalibrationMath } from '../tensor/calibration-math.ts';
import type { QuantizedRows } from '../tensor/quantize-rows.ts';

/** Shares of a group's range, of either end apart, that are tried. */
const SHARES = Float32Array.from({ length: 10 }, (_, i) => 1 - i * 0.05);

/**
 * Pairs (scale, zero) of `values` `[rows, columns]`, and codes rounded to the nearest under them. Of each group the range
 * is chosen that the product loses least by: eGeᵀ for its errors e and the inputs' Gram matrix `gram`
 * `[columns, columns]`, between the group's own columns alone, as AutoAWQ's search for clipped weights has it. Zeros are
 * not rounded, so that the 16 values of a group fill its range.
 */
export async function searchRanges(
  values: Float32Array,
  groupSize: number,
  gram: Float32Array,
  math: CalibrationMath,
): Promise<QuantizedRows> {
  const columns = Math.sqrt(gram.length);
  const codes = new Float32Array(values.length);
  const scales = new Float32Array((2 * values.length) / groupSize);
  const triangles = groupTriangles(gram, columns, groupSize);
  await math.searchRanges({ values, columns, groupSize, triangles, shares: SHARES, codes, scales });
  return { codes, scales };
}

/** G between the columns of each group, as a triangle with the same eGeᵀ: `[columns / groupSize, groupSize, groupSize]`. */
function groupTriangles(gram: Float32Array, columns: number, groupSize: number): Float32Array {
  const triangles = new Float32Array(columns * groupSize);
  for (let row = 0; row < columns; row++) {
    const start = row - (row % groupSize);
    for (let column = start; column <= row; column++) {
      const value = gram[row * columns + column];
      triangles[row * groupSize + column - start] = column === row ? value : 2 * value;
    }
  }
  return triangles;
}
