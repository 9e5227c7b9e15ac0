// The search for the factors that a group of products shares: candidates from statistics of inputs and weights, judged by
// how far the products of some rows are from what they were.
import type { AddProduct } from '../tensor/matrix-product.ts';
import { roundTrip } from '../tensor/quantize-rows.ts';
import { grouped, type WeightFormat } from '../tensor/weight-format.ts';
import type { InputStatistics } from './input-statistics.ts';
import { someRows, timesTransposed, withColumnsScaled } from './matrix.ts';
import type { Product } from './products.ts';
import type { ScaledWeights } from './scaled-weights.ts';
import type { ScalingGroup } from './scaling-groups.ts';

export interface ScaleRule {
  /** The group's factors for one strength between 0 (none) and 1. */
  readonly factors: (strength: number, statistics: GroupStatistics) => Float64Array;
  /** Strengths to try. */
  readonly strengths: readonly number[];
  /** Inputs become int8 per token as well. */
  readonly quantizesInput: boolean;
}

/** Of each factor: the largest over the columns that share it; of means the mean. */
export interface GroupStatistics {
  readonly absmax: Float64Array;
  readonly meanAbs: Float64Array;
  readonly weightAbsmax: Float64Array;
}

/**
 * Activation-aware scaling (Lin et al., "AWQ", 2023): s = mean|x|^a, so that the columns of weights that meet large inputs
 * lose less to rounding.
 */
export const AWQ_RULE: ScaleRule = {
  factors: (strength, { meanAbs }) => centred(meanAbs.map((mean) => Math.max(mean, 1e-4) ** strength)),
  strengths: steps(20),
  quantizesInput: false,
};

/** s = max|x|^a / max|w|^(1 − a): inputs become as even as weights are (Xiao et al., "SmoothQuant", 2022). */
export function smoothQuantRule(alpha: number | null): ScaleRule {
  return {
    factors: (strength, { absmax, weightAbsmax }) =>
      centred(
        absmax.map(
          (x, i) => Math.max(x, 1e-5) ** strength / Math.max(weightAbsmax[i], 1e-5) ** (1 - strength),
        ),
      ),
    strengths: alpha === null ? steps(20) : [alpha],
    quantizesInput: true,
  };
}

/** Rows of each weight, and of its input, that candidates are judged by. */
const MAX_WEIGHT_ROWS = 256;
const MAX_INPUT_ROWS = 256;

/** The factors `[numFactors]` with the smallest error; null where none is better than none at all. */
export async function searchScales(
  group: ScalingGroup,
  input: InputStatistics,
  weights: ScaledWeights,
  rule: ScaleRule,
  addProduct: AddProduct,
): Promise<Float64Array | null> {
  const { factorOf, columns } = group;
  const matrices = group.products.map(({ weight }) => weights.read(weight));
  const statistics = groupStatistics(group, input, matrices);
  const rows = someRows(input.sample, columns, MAX_INPUT_ROWS);
  const judge = async ({ format }: Product, i: number) => {
    const matrix = someRows(matrices[i], columns, MAX_WEIGHT_ROWS);
    const expected = await timesTransposed(matrix, rows, columns, addProduct);
    // Each product's loss counts by its share: values are small beside queries, and matter more.
    const energy = expected.reduce((sum, value) => sum + value * value, Number.MIN_VALUE);
    return { format, matrix, expected, energy };
  };
  const judged = await Promise.all(group.products.map(judge));
  const errorOf = async (factors: Float64Array): Promise<number> => {
    const ofColumns = Float64Array.from(factorOf, (factor) => factors[factor]);
    const scaled = withColumnsScaled(
      rows,
      ofColumns.map((factor) => 1 / factor),
    );
    const x = rule.quantizesInput ? roundTrip(scaled, grouped(INPUT_FORMAT, columns)) : scaled;
    let error = 0;
    for (const { format, matrix, expected, energy } of judged) {
      const w = roundTrip(withColumnsScaled(matrix, ofColumns), grouped(format, columns));
      error += squaredDistance(await timesTransposed(w, x, columns, addProduct), expected) / energy;
    }
    return error;
  };
  let best: Float64Array | null = null;
  let least = await errorOf(new Float64Array(group.numFactors).fill(1));
  // One strength was asked for, and is not in question.
  if (rule.strengths.length === 1) return rule.factors(rule.strengths[0], statistics);
  for (const strength of rule.strengths) {
    const factors = rule.factors(strength, statistics);
    const error = await errorOf(factors);
    if (error < least) [least, best] = [error, factors];
  }
  return best;
}

const INPUT_FORMAT: WeightFormat = { dtype: 'int8', groupSize: null, hasZeros: false };

function groupStatistics(
  { factorOf, numFactors, columns }: ScalingGroup,
  input: InputStatistics,
  matrices: readonly Float32Array[],
): GroupStatistics {
  const [absmax, meanAbs, weightAbsmax, counts] = [0, 1, 2, 3].map(() => new Float64Array(numFactors));
  factorOf.forEach((factor, column) => {
    absmax[factor] = Math.max(absmax[factor], input.absmax[column]);
    meanAbs[factor] += input.meanAbs[column];
    counts[factor]++;
  });
  for (const matrix of matrices) {
    for (let row = 0; row < matrix.length; row += columns) {
      for (let column = 0; column < columns; column++) {
        const factor = factorOf[column];
        weightAbsmax[factor] = Math.max(weightAbsmax[factor], Math.abs(matrix[row + column]));
      }
    }
  }
  return { absmax, meanAbs: meanAbs.map((sum, i) => sum / counts[i]), weightAbsmax };
}

function squaredDistance(a: Float32Array, b: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i] - b[i]) ** 2;
  return sum;
}

/** Factors around 1: neither side leaves the range of its type. */
function centred(factors: Float64Array): Float64Array {
  const [least, most] = [Math.min, Math.max].map((pick) => factors.reduce((a, b) => pick(a, b)));
  const middle = Math.sqrt(least * most);
  return factors.map((factor) => factor / middle);
}

function steps(count: number): readonly number[] {
  return Array.from({ length: count }, (_, i) => (i + 1) / count);
}
