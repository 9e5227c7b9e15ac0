// GPTQ (Frantar et al., 2022): columns are quantized one after the other, and what each loses is made up for by those
// that are still floats, as far as the inputs' columns go together.
import type { AddProduct } from '../tensor/matrix-product.ts';
import type { QuantizedRows } from '../tensor/quantize-rows.ts';
import { BLOCK_COLUMNS, factorCholesky } from './cholesky.ts';
import { damped, diagonalOf } from './gram.ts';
import { encodeUint4, searchRanges } from './range-search.ts';

export interface GptqOptions {
  /** Columns of the largest inputs first; scales are those of the weights as they were in either case. */
  readonly actOrder: boolean;
  /** Added to the Gram matrix's diagonal, as a share of its mean. */
  readonly damping: number;
}

export const GPTQ_OPTIONS: GptqOptions = { actOrder: true, damping: 0.01 };

/**
 * 4-bit codes of `values` `[rows, columns]`, and pairs (scale, zero), for inputs with the Gram matrix `gram`
 * `[columns, columns]`.
 *
 * With the Gram matrix as LLᵀ, errors e cost |eL|², and element p of eL holds errors of column p and later ones alone. So,
 * going from the last column to the first, the best that a column can do is to bring its own element to 0, which is what
 * GPTQ's updates through the inverse matrix come to (Chen et al., "The Geometry of LLM Quantization: GPTQ as Babai's
 * Nearest Plane Algorithm", 2025).
 */
export async function gptq(
  values: Float32Array,
  groupSize: number,
  gram: Float32Array,
  { actOrder, damping }: GptqOptions,
  addProduct: AddProduct,
): Promise<QuantizedRows> {
  const { scales } = await searchRanges(values, groupSize, gram, addProduct);
  const order = columnOrder(diagonalOf(gram), actOrder);
  const columns = order.length;
  const factor = inOrder(damped(gram, damping), order);
  await factorCholesky(factor, columns, addProduct);
  const rounding = new Rounding(values, scales, groupSize, order);
  for (let end = columns; end > 0; end -= BLOCK_COLUMNS) {
    const start = Math.max(0, end - BLOCK_COLUMNS);
    const width = end - start;
    const sums = new Float32Array(rounding.rows * width);
    if (end < columns) {
      await addProduct({
        a: { values: rounding.errors.subarray(end), stride: columns },
        b: { values: factor.subarray(end * columns + start), stride: columns },
        c: { values: sums, stride: width },
        rows: rounding.rows,
        depth: columns - end,
        columns: width,
      });
    }
    rounding.roundColumns(start, end, sums, factor);
  }
  return { codes: rounding.codes, scales };
}

/** The column at each place; the last place is quantized first. */
function columnOrder(diagonal: Float32Array, actOrder: boolean): Int32Array {
  const order = Int32Array.from(diagonal.keys()).reverse();
  return actOrder ? order.sort((a, b) => diagonal[a] - diagonal[b] || b - a) : order;
}

function inOrder(matrix: Float32Array, order: Int32Array): Float32Array {
  const columns = order.length;
  return matrix.map((_, i) => matrix[order[Math.floor(i / columns)] * columns + order[i % columns]]);
}

/** A weight on its way to codes; places stand for columns in the order in which they come. */
class Rounding {
  readonly rows: number;
  readonly codes: Float32Array;
  /** What the codes of a place mean less the weight that was there, `[rows, columns]`; 0 for those that are to come. */
  readonly errors: Float32Array;
  readonly #values: Float32Array;
  readonly #scales: Float32Array;
  readonly #groupSize: number;
  readonly #order: Int32Array;

  constructor(values: Float32Array, scales: Float32Array, groupSize: number, order: Int32Array) {
    this.rows = values.length / order.length;
    this.codes = new Float32Array(values.length);
    this.errors = new Float32Array(values.length);
    [this.#values, this.#scales, this.#groupSize, this.#order] = [values, scales, groupSize, order];
  }

  /** Places `start` to `end` from the last on; `sums` `[rows, end − start]`: the later places' part of errors · L. */
  roundColumns(start: number, end: number, sums: Float32Array, factor: Float32Array): void {
    const [columns, width] = [this.#order.length, end - start];
    const turned = blockColumns(factor, columns, start, end);
    const numGroups = columns / this.#groupSize;
    for (let row = 0; row < this.rows; row++) {
      const [first, own] = [row * columns, row * width];
      for (let place = width - 1; place >= 0; place--) {
        let sum = sums[own + place];
        const line = place * width;
        for (let i = place + 1; i < width; i++) {
          sum += this.errors[first + start + i] * turned[line + i];
        }
        const column = this.#order[start + place];
        const pair = 2 * (row * numGroups + Math.floor(column / this.#groupSize));
        const [scale, zero] = [this.#scales[pair], this.#scales[pair + 1]];
        const value = this.#values[first + column];
        const code = encodeUint4(value - sum / turned[line + place], scale, zero);
        this.codes[first + column] = code;
        this.errors[first + start + place] = (code - zero) * scale - value;
      }
    }
  }
}

/** Columns of L's diagonal block as rows, `[end − start, end − start]`. */
function blockColumns(factor: Float32Array, columns: number, start: number, end: number): Float32Array {
  const width = end - start;
  const turned = new Float32Array(width * width);
  for (let column = 0; column < width; column++) {
    for (let row = column; row < width; row++) {
      turned[column * width + row] = factor[(start + row) * columns + start + column];
    }
  }
  return turned;
}
