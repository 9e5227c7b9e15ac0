// GPTQ (Frantar et al., 2022): columns are quantized one after the other, and what each loses is made up for by those
// that are still floats, as far as the inputs' columns go together.
import { dequantizeRows, quantizeUnderScales, type QuantizedRows } from '../tensor/quantize-rows.ts';
import type { GroupedFormat } from '../tensor/weight-format.ts';
import { inverseUpperCholesky } from './matrix.ts';
import { searchRanges } from './range-search.ts';

export interface GptqOptions {
  /** Columns of the largest inputs first; scales are then those of the weights as they were. */
  readonly actOrder: boolean;
  /** Added to the Gram matrix's diagonal, as a share of its mean. */
  readonly damping: number;
}

export const GPTQ_OPTIONS: GptqOptions = { actOrder: true, damping: 0.01 };

/**
 * Codes and scales of `values` `[rows, columns]`, whose inputs have the Gram matrix `gram` `[columns, columns]`. All groups'
 * scales are settled before the first column, so that no order of columns needs a table of groups.
 */
export function gptq(
  values: Float32Array,
  format: GroupedFormat,
  gram: Float64Array,
  { actOrder, damping }: GptqOptions,
): QuantizedRows {
  const columns = Math.sqrt(gram.length);
  const rows = values.length / columns;
  const diagonal = Float64Array.from({ length: columns }, (_, i) => gram[i * columns + i]);
  const { scales } = searchRanges(values, format, diagonal);
  const order = Int32Array.from(diagonal.keys());
  if (actOrder) order.sort((a, b) => diagonal[b] - diagonal[a] || a - b);
  const factor = inverseUpperCholesky(damped(gram, diagonal, order, damping), columns);

  // The weights in the order in which they are quantized, and what is left of them as that goes on.
  const rest = Float64Array.from(values, (_, i) => values[i - (i % columns) + order[i % columns]]);
  const codes = new Float32Array(values.length);
  for (let place = 0; place < columns; place++) {
    const column = order[place];
    const current = Float32Array.from({ length: rows }, (_, row) => rest[row * columns + place]);
    const own = columnScales(scales, column, rows, columns, format);
    const columnCodes = quantizeUnderScales(current, own, { ...format, groupSize: 1 });
    const written = dequantizeRows(columnCodes, own, { ...format, groupSize: 1 });
    for (let row = 0; row < rows; row++) {
      codes[row * columns + column] = columnCodes[row];
      const error = (rest[row * columns + place] - written[row]) / factor[place * columns + place];
      passOn(error, rest, row * columns, factor, place, columns);
    }
  }
  return { codes, scales };
}

/** What the columns after `place` take over of an error; `factor` is the upper triangle U with UᵀU the inverse Gram matrix. */
function passOn(
  error: number,
  rest: Float64Array,
  rowStart: number,
  factor: Float64Array,
  place: number,
  columns: number,
): void {
  for (let i = place + 1; i < columns; i++) rest[rowStart + i] -= error * factor[place * columns + i];
}

/** The scale of one column in each row, with its zero if it has one. */
function columnScales(
  scales: Float32Array,
  column: number,
  rows: number,
  columns: number,
  { groupSize, hasZeros }: GroupedFormat,
): Float32Array {
  const perGroup = hasZeros ? 2 : 1;
  const perRow = (columns / groupSize) * perGroup;
  const first = Math.floor(column / groupSize) * perGroup;
  return Float32Array.from(
    { length: rows * perGroup },
    (_, i) => scales[Math.floor(i / perGroup) * perRow + first + (i % perGroup)],
  );
}

/** In the order given, with something on the diagonal; inputs that are always 0 count as 1, for their weights mean nothing. */
function damped(
  gram: Float64Array,
  diagonal: Float64Array,
  order: Int32Array,
  damping: number,
): Float64Array {
  const columns = order.length;
  const extra = damping * (diagonal.reduce((a, b) => a + b, 0) / columns);
  const matrix = new Float64Array(gram.length);
  for (let i = 0; i < columns; i++) {
    for (let j = 0; j < columns; j++) matrix[i * columns + j] = gram[order[i] * columns + order[j]];
    matrix[i * columns + i] += diagonal[order[i]] === 0 ? 1 : extra;
  }
  return matrix;
}
