// GPTQ (Frantar et al., 2022): columns are quantized one after the other, and what each loses is made up for by those
// that are still floats, as far as the inputs' columns go together.
import type { CalibrationMath } from '../tensor/calibration-math.ts';
import type { AddProduct } from '../tensor/matrix-product.ts';
import type { QuantizedRows } from '../tensor/quantize-rows.ts';
import { BLOCK_COLUMNS, factorCholesky } from './cholesky.ts';
import { damped, diagonalOf } from './gram.ts';
import { searchRanges } from './range-search.ts';

export interface GptqOptions {
  /** Columns of the largest inputs first; scales are those of the weights as they were in either case. */
  readonly actOrder: boolean;
  /** Added to the Gram matrix's diagonal, as a share of its mean. */
  readonly damping: number;
}

export const GPTQ_OPTIONS: GptqOptions = { actOrder: true, damping: 0.01 };

/** What GPTQ knows of an input, whichever product reads it. */
export interface GptqInput {
  /** Of its columns, `[columns, columns]`. */
  readonly gram: Float32Array;
  /** The column at each place; the last place is quantized first. */
  readonly order: Int32Array;
  /** L with LLᵀ = the damped Gram matrix by places; what lies above the diagonal has no meaning here. */
  readonly factor: Float32Array;
}

/** Throws a RangeError for what is no Gram matrix. */
export async function prepareGptq(
  gram: Float32Array,
  { actOrder, damping }: GptqOptions,
  addProduct: AddProduct,
): Promise<GptqInput> {
  const order = columnOrder(diagonalOf(gram), actOrder);
  const ordered = inOrder(damped(gram, damping), order);
  const { values: factor } = await factorCholesky(ordered, order.length, addProduct);
  return { gram, order, factor };
}

function columnOrder(diagonal: Float32Array, actOrder: boolean): Int32Array {
  const order = Int32Array.from(diagonal.keys()).reverse();
  return actOrder ? order.sort((a, b) => diagonal[a] - diagonal[b] || b - a) : order;
}

function inOrder(matrix: Float32Array, order: Int32Array): Float32Array {
  const columns = order.length;
  const ordered = new Float32Array(matrix.length);
  for (let row = 0; row < columns; row++) {
    const from = order[row] * columns;
    for (let i = 0; i < columns; i++) ordered[row * columns + i] = matrix[from + order[i]];
  }
  return ordered;
}

/**
 * 4-bit codes of `values` `[rows, columns]`, and pairs (scale, zero).
 *
 * With the Gram matrix as LLᵀ, errors e cost |eL|², and element p of eL holds errors of column p and later ones alone. So,
 * going from the last column to the first, the best that a column can do is to bring its own element to 0, which is what
 * GPTQ's updates through the inverse matrix come to (Chen et al., "The Geometry of LLM Quantization: GPTQ as Babai's
 * Nearest Plane Algorithm", 2025).
 */
export async function gptq(
  values: Float32Array,
  groupSize: number,
  { gram, order, factor }: GptqInput,
  math: CalibrationMath,
): Promise<QuantizedRows> {
  const { codes, scales } = await searchRanges(values, groupSize, gram, math);
  const columns = order.length;
  const rows = values.length / columns;
  /** By places; 0 for those that are to come. */
  const errors = new Float32Array(values.length);
  for (
    let start = (Math.ceil(columns / BLOCK_COLUMNS) - 1) * BLOCK_COLUMNS;
    start >= 0;
    start -= BLOCK_COLUMNS
  ) {
    const end = Math.min(start + BLOCK_COLUMNS, columns);
    const sums = new Float32Array(rows * (end - start));
    if (end < columns) {
      await math.addProduct({
        a: { values: errors.subarray(end), stride: columns },
        b: { values: factor.subarray(end * columns + start), stride: columns },
        c: { values: sums, stride: end - start },
        rows,
        depth: columns - end,
        columns: end - start,
      });
    }
    await math.roundColumns({ values, scales, groupSize, order, factor, start, end, sums, codes, errors });
  }
  return { codes, scales };
}
