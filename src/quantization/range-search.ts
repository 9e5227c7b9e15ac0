// Scales of weights by search: a group's range may be cut where that costs the products less than it saves in rounding.
import { quantizeRows, quantizeUnderScales, type QuantizedRows } from '../tensor/quantize-rows.ts';
import { impliedZero, scaleColumns, type GroupedFormat } from '../tensor/weight-format.ts';

/** Shares of a group's range that are tried; of either end apart where codes have zeros. */
const SHARES: readonly number[] = Array.from({ length: 10 }, (_, i) => 1 - i * 0.05);

/**
 * Scales of `values` `[rows, columns]` under which Σ error² · importance is least in each group, and their codes;
 * `importance` `[columns]` is the mean square of each column's inputs.
 */
export function searchRanges(
  values: Float32Array,
  format: GroupedFormat,
  importance: Float64Array,
): QuantizedRows {
  const { groupSize } = format;
  const scales = new Float32Array(scaleColumns(format, values.length));
  const perGroup = format.hasZeros ? 2 : 1;
  for (let start = 0, group = 0; start < values.length; start += groupSize, group++) {
    const first = start % importance.length;
    const own = searchGroup(
      values.subarray(start, start + groupSize),
      format,
      importance.subarray(first, first + groupSize),
    );
    scales.set(own, group * perGroup);
  }
  return { codes: quantizeUnderScales(values, scales, format), scales };
}

/** The scale of one group, with its zero if it has one. */
function searchGroup(values: Float32Array, format: GroupedFormat, importance: Float64Array): Float32Array {
  const { scales: whole } = quantizeRows(values, format);
  const [min, max] = extremes(values);
  let best = whole;
  let least = groupError(values, whole, format, importance, Infinity);
  for (const lower of SHARES) {
    for (const upper of format.hasZeros ? SHARES : [lower]) {
      // Two values in a group of their own have just the scale that a group of this range has.
      const range = Float32Array.of(lower * min, upper * max);
      const { scales } = quantizeRows(range, { ...format, groupSize: 2 });
      const error = groupError(values, scales, format, importance, least);
      if (error < least) [best, least] = [scales, error];
    }
  }
  return best;
}

function extremes(values: Float32Array): readonly [min: number, max: number] {
  let [min, max] = [0, 0];
  for (const value of values) {
    if (value < min) min = value;
    if (value > max) max = value;
  }
  return [min, max];
}

/** Σ error² · importance, or any number that is not below `limit` once the sum has reached it. */
function groupError(
  values: Float32Array,
  scales: Float32Array,
  { dtype, hasZeros }: GroupedFormat,
  importance: Float64Array,
  limit: number,
): number {
  const [scale, zero = impliedZero(dtype)] = scales;
  let sum = 0;
  if (dtype === 'float8_e4m3fn') {
    const codes = quantizeUnderScales(values, scales, { dtype, hasZeros, groupSize: values.length });
    for (let i = 0; i < values.length; i++) sum += (values[i] - codes[i] * scale) ** 2 * importance[i];
    return sum;
  }
  const [lowest, highest] = dtype === 'uint4' ? [-zero, 15 - zero] : [-127, 127];
  const inverse = 1 / scale;
  for (let i = 0; i < values.length && sum < limit; i++) {
    const value = values[i];
    let steps = Math.round(value * inverse);
    if (steps < lowest) steps = lowest;
    else if (steps > highest) steps = highest;
    const error = value - steps * scale;
    sum += error * error * importance[i];
  }
  return sum;
}
