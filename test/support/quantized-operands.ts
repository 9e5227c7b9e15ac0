// Random operands of codes for suites of kernels: weights and activations, each with their scales.
import type { Attributes } from '../../src/ir/graph.ts';
import { quantizeRows } from '../../src/tensor/quantize-rows.ts';
import type { GroupedFormat } from '../../src/tensor/weight-format.ts';
import { randomValues } from './check-launch.ts';
import { matrix, type HarnessOperand, type Matrix } from './cpu-harness.ts';

export type ActivationCodes = 'int8' | 'float8_e4m3fn';

/** One place of the largest codes: rounding before may differ in its last bit. */
export const CODE_STEPS = { int8: 1.01 / 127, float8_e4m3fn: 32.1 / 448 } as const;

/**
 * Hopper's tensor cores add products of float8 with 14 bits, whatever the result's type. Many rows' sums stay there, so that
 * errors add up with the length of a row: 1.2e-3 of the largest were seen at 1,152 columns, 6.8e-3 at 19,712.
 */
export function sumError(codes: ActivationCodes, inputs: number): number {
  return codes === 'int8' ? 0 : 2e-3 * Math.max(1, Math.sqrt(inputs / 1152));
}

/** Enough for each size of a tile, and more than one of the largest. */
export const NUM_ROWS = [1, 3, 8, 9, 17, 33, 65, 130, 300];

export interface CodedWeight {
  readonly attributes: Attributes;
  /** Codes `[rows, columns]` and float32 scales `[rows, columns / groupSize]`. */
  readonly operands: readonly HarnessOperand[];
}

export function codedWeight(rows: number, columns: number, format: GroupedFormat): CodedWeight {
  const { dtype, groupSize, hasZeros } = format;
  const { codes, scales } = quantizeRows(randomValues(rows * columns, 2), format);
  const layout = dtype === 'uint4' ? 'evenOdd' : 'rowMajor';
  return {
    attributes: { weightDType: dtype, groupSize, hasZeros },
    operands: [
      { kind: 'weight', values: codes, shape: [rows, columns], dtype, layout },
      wide([rows, scales.length / rows], scales),
    ],
  };
}

/** A weight that has one scale for each row. */
export function codedRows(rows: number, columns: number, dtype: ActivationCodes): CodedWeight {
  return codedWeight(rows, columns, { dtype, groupSize: columns, hasZeros: false });
}

/** Codes `[rows, columns]`, a view of which may be asked for, and scales `[rows, columns / groupSize]` in longer rows. */
export function codedActivations(
  rows: number,
  columns: number,
  dtype: ActivationCodes,
  groupSize = columns,
  view: { columnStart?: number; rowStride?: number } = {},
): readonly [codes: Matrix, scales: Matrix] {
  const { codes, scales } = quantizeRows(randomValues(rows * columns, 1), {
    dtype,
    groupSize,
    hasZeros: false,
  });
  const groups = columns / groupSize;
  return [
    matrix(rows, columns, codes, { dtype, ...view }),
    matrix(rows, groups, scales, { rowStride: groups + 1 }),
  ];
}

/** Outputs of what quantizes. */
export function codesAndScales(rows: number, columns: number, dtype: ActivationCodes, groups = 1): Matrix[] {
  return [matrix(rows, columns, undefined, { dtype }), matrix(rows, groups)];
}

/** Of what a gated product of so many random inputs yields, under which the largest codes saturate: the second counts. */
export function givenScales(codes: ActivationCodes, inputs: number): Float32Array {
  const scale = inputs / 4 / (codes === 'int8' ? 127 : 448);
  return Float32Array.of(scale / 2, scale);
}

/** A parameter that is float32 in every type of activations. */
export function wide(shape: readonly number[], values: Float32Array): HarnessOperand {
  return { kind: 'weight', values, shape, dtype: 'float32', layout: 'rowMajor' };
}
