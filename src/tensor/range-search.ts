// Scales and zeros of 4-bit codes by search: what whoever searches is asked for, and the plain way to do it.

const { fround } = Math;

export interface RangeSearch {
  /** `[rows, columns]` in groups of `groupSize` columns. */
  readonly values: Float32Array;
  readonly columns: number;
  readonly groupSize: number;
  /** For each group T `[groupSize, groupSize]`, zero above its diagonal: errors e of the group's columns cost eTeᵀ. */
  readonly triangles: Float32Array;
  /** What either end of a group's range, which has 0 in it, is multiplied by: each with each is tried, in this order. */
  readonly shares: Float32Array;
  /** Written: codes rounded to the nearest `[rows, columns]`, pairs (scale, zero) that cost least `[rows, 2 · columns / groupSize]`. */
  readonly codes: Float32Array;
  readonly scales: Float32Array;
}

/** The code of a value under a scale and a zero that need be no whole number. */
export function encodeUint4(value: number, scale: number, zero: number): number {
  const code = Math.round(value / scale + zero);
  return code < 0 ? 0 : code > 15 ? 15 : code;
}

type Pair = readonly [scale: number, zero: number];

/** One thread, one group of a row after the other. */
export async function searchRanges(search: RangeSearch): Promise<void> {
  const { values, groupSize, codes, scales } = search;
  for (let start = 0; start < values.length; start += groupSize) {
    const group = values.subarray(start, start + groupSize);
    const [scale, zero] = bestPair(group, start, search);
    scales.set([scale, zero], (2 * start) / groupSize);
    group.forEach((value, i) => (codes[start + i] = encodeUint4(value, scale, zero)));
  }
}

function bestPair(
  group: Float32Array,
  start: number,
  { columns, groupSize, triangles, shares }: RangeSearch,
): Pair {
  const first = (start % columns) * groupSize;
  const triangle = triangles.subarray(first, first + groupSize * groupSize);
  const [least, most] = [Math.min, Math.max].map((pick) => group.reduce((a, b) => pick(a, b), 0));
  let best = pairOf(least, most);
  let leastLoss = Infinity;
  for (const lower of shares) {
    for (const upper of shares) {
      const pair = pairOf(lower * least, upper * most);
      const loss = lossOf(group, pair, triangle);
      if (loss < leastLoss) [leastLoss, best] = [loss, pair];
    }
  }
  return best;
}

/** Under which `least` has the code 0 and `most` the code 15. */
function pairOf(least: number, most: number): Pair {
  const scale = fround((most - least) / 15) || 1;
  return [scale, fround((0 - least) / scale)];
}

/** What rounding under the pair costs. */
function lossOf(group: Float32Array, [scale, zero]: Pair, triangle: Float32Array): number {
  const errors = group.map((value) => (encodeUint4(value, scale, zero) - zero) * scale - value);
  let loss = 0;
  for (let row = 0; row < group.length; row++) {
    for (let column = 0; column <= row; column++) {
      loss += errors[row] * triangle[row * group.length + column] * errors[column];
    }
  }
  return loss;
}
