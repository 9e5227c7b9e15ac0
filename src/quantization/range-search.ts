// Scales and zeros of 4-bit codes by search: a group's range may be cut at either end where that costs a product less than
// it saves in rounding.
import type { AddProduct } from '../tensor/matrix-product.ts';
import type { QuantizedRows } from '../tensor/quantize-rows.ts';

const { fround } = Math;

/** Shares of a group's range, of either end apart, that are tried. */
const SHARES: readonly number[] = Array.from({ length: 10 }, (_, i) => 1 - i * 0.05);

/** The code of a value under a scale and a zero that need be no whole number. */
export function encodeUint4(value: number, scale: number, zero: number): number {
  const code = Math.round(value / scale + zero);
  return code < 0 ? 0 : code > 15 ? 15 : code;
}

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
  addProduct: AddProduct,
): Promise<QuantizedRows> {
  const columns = Math.sqrt(gram.length);
  const codes = new Float32Array(values.length);
  const scales = new Float32Array((2 * values.length) / groupSize);
  for (let start = 0; start < columns; start += groupSize) {
    const group = new ColumnGroup(values, columns, start, groupSize);
    const products = new Float32Array(group.errors.length);
    for (const lower of SHARES) {
      for (const upper of SHARES) {
        products.fill(0);
        group.round(lower, upper);
        await addProduct({
          a: { values: group.errors, stride: groupSize },
          b: { values: gram.subarray(start * columns + start), stride: columns },
          c: { values: products, stride: groupSize },
          rows: group.rows,
          depth: groupSize,
          columns: groupSize,
        });
        group.keepBetter(products);
      }
    }
    group.write(codes, scales);
  }
  return { codes, scales };
}

/** One group of columns: for each row its range, the scale and the zero at hand, and the best so far. */
class ColumnGroup {
  readonly rows: number;
  /** Of rounding under the scales at hand, `[rows, size]`. */
  readonly errors: Float32Array;
  readonly #values: Float32Array;
  readonly #columns: number;
  readonly #start: number;
  readonly #size: number;
  /** Pairs: least and most value; the scale and the zero at hand; the best. */
  readonly #ranges: Float32Array;
  readonly #tried: Float32Array;
  readonly #best: Float32Array;
  readonly #least: Float64Array;

  constructor(values: Float32Array, columns: number, start: number, size: number) {
    this.rows = values.length / columns;
    [this.#values, this.#columns, this.#start, this.#size] = [values, columns, start, size];
    this.errors = new Float32Array(this.rows * size);
    [this.#ranges, this.#tried, this.#best] = [0, 1, 2].map(() => new Float32Array(2 * this.rows));
    this.#least = new Float64Array(this.rows).fill(Infinity);
    for (let row = 0; row < this.rows; row++) {
      const own = values.subarray(this.#at(row), this.#at(row) + size);
      this.#ranges[2 * row] = own.reduce((a, b) => Math.min(a, b), 0);
      this.#ranges[2 * row + 1] = own.reduce((a, b) => Math.max(a, b), 0);
    }
  }

  /** Rounds under the scales that this share of each range has. */
  round(lower: number, upper: number): void {
    for (let row = 0; row < this.rows; row++) {
      const [least, most] = [lower * this.#ranges[2 * row], upper * this.#ranges[2 * row + 1]];
      const scale = fround((most - least) / 15) || 1;
      const zero = fround((0 - least) / scale);
      this.#tried[2 * row] = scale;
      this.#tried[2 * row + 1] = zero;
      const own = this.#values.subarray(this.#at(row), this.#at(row) + this.#size);
      writeErrors(own, scale, zero, this.errors, row * this.#size);
    }
  }

  /** `products`: errors times the Gram matrix. */
  keepBetter(products: Float32Array): void {
    for (let row = 0; row < this.rows; row++) {
      let loss = 0;
      const end = (row + 1) * this.#size;
      for (let i = row * this.#size; i < end; i++) loss += this.errors[i] * products[i];
      if (loss >= this.#least[row]) continue;
      this.#least[row] = loss;
      this.#best[2 * row] = this.#tried[2 * row];
      this.#best[2 * row + 1] = this.#tried[2 * row + 1];
    }
  }

  write(codes: Float32Array, scales: Float32Array): void {
    const pairsPerRow = (2 * this.#columns) / this.#size;
    for (let row = 0; row < this.rows; row++) {
      const [scale, zero] = this.#best.subarray(2 * row, 2 * row + 2);
      scales.set([scale, zero], row * pairsPerRow + (2 * this.#start) / this.#size);
      const from = this.#at(row);
      for (let i = from; i < from + this.#size; i++) codes[i] = encodeUint4(this.#values[i], scale, zero);
    }
  }

  #at(row: number): number {
    return row * this.#columns + this.#start;
  }
}

/** What rounding adds to each value. Divides once instead of by each: it takes a sixth of the time. */
function writeErrors(
  values: Float32Array,
  scale: number,
  zero: number,
  errors: Float32Array,
  start: number,
): void {
  const inverse = 1 / scale;
  for (let i = 0; i < values.length; i++) {
    const place = values[i] * inverse + zero + 0.5;
    const code = place < 0 ? 0 : place >= 15 ? 15 : place | 0;
    errors[start + i] = (code - zero) * scale - values[i];
  }
}
