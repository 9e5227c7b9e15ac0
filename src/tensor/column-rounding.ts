// Rounding to 4-bit codes column by column, where each makes up for what others have lost: what whoever rounds is asked for,
// and the plain way to do it.
import { encodeUint4 } from './range-search.ts';

/** Places `start` to `end` of the columns' order, at most 128, from the last on. Errors e cost |eL|². */
export interface ColumnRounding {
  /** `[rows, columns]` */
  readonly values: Float32Array;
  /** Pairs (scale, zero) `[rows, 2 · columns / groupSize]`. */
  readonly scales: Float32Array;
  readonly groupSize: number;
  /** The column at each place. */
  readonly order: Int32Array;
  /** L by places `[columns, columns]`, of which the triangle of these places is read. */
  readonly factor: Float32Array;
  readonly start: number;
  readonly end: number;
  /** The later places' part of eL `[rows, end − start]`. */
  readonly sums: Float32Array;
  /** Written: codes `[rows, columns]`, and at each place what they mean less the value that was there. */
  readonly codes: Float32Array;
  readonly errors: Float32Array;
}

/** One thread, one row after the other: each place brings its own element of eL to 0 as far as a code can. */
export async function roundColumns(rounding: ColumnRounding): Promise<void> {
  const { values, scales, groupSize, order, factor, start, end, sums, codes, errors } = rounding;
  const [columns, width] = [order.length, end - start];
  for (let first = 0, own = 0; first < values.length; first += columns, own += width) {
    for (let place = end - 1; place >= start; place--) {
      let sum = sums[own + place - start];
      for (let i = place + 1; i < end; i++) sum += errors[first + i] * factor[i * columns + place];
      const at = first + order[place];
      const pair = 2 * Math.floor(at / groupSize);
      const [scale, zero] = [scales[pair], scales[pair + 1]];
      codes[at] = encodeUint4(values[at] - sum / factor[place * columns + place], scale, zero);
      errors[first + place] = (codes[at] - zero) * scale - values[at];
    }
  }
}
