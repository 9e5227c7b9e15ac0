// Grouped products against their ops' definitions: matrices without a row and with all of them, tiles that are not full, odd widths.
import { afterAll, beforeAll, describe, it } from 'vitest';
import { roundTo } from '../../tensor/dtype.ts';
import { quantizeRows } from '../../tensor/quantize-rows.ts';
import { plainStep, randomValues } from '../../../test/support/check-launch.ts';
import { matrix, type HarnessOperand, type Matrix } from '../../../test/support/cpu-harness.ts';
import { CudaHarness } from '../../../test/support/cuda-harness.ts';
import { describeCuda } from '../../../test/support/cuda.ts';

/** Of the largest value: a few roundings of the type. */
const TOLERANCES = { float32: 2e-5, float16: 3e-3, bfloat16: 2e-2 } as const;
const NONE: HarnessOperand = { kind: 'none' };

/** The outputs and inputs of each matrix. */
const SHAPES = [
  [40, 64],
  [136, 200],
  [17, 72],
  [24, 7],
] as const;
const NUM_ROWS = [1, 7, 40, 150];

/** How tokens choose their `slots` of `numMatrices`. */
const CHOICES: Readonly<Record<string, (numMatrices: number) => (token: number, slot: number) => number>> = {
  'all matrices in turn': (numMatrices) => (token, slot) => (token * 3 + slot) % numMatrices,
  'the last ones alone': (numMatrices) => (_, slot) => numMatrices - 1 - slot,
  'mostly the first': (numMatrices) => (token, slot) => (token % 9 === 0 ? (slot + 2) % numMatrices : slot),
};

function idsOf(choice: string, numTokens: number, numMatrices: number, slots: number): Matrix {
  const chosen = CHOICES[choice](numMatrices);
  const ids = Int32Array.from({ length: numTokens * slots }, (_, i) =>
    chosen(Math.floor(i / slots), i % slots),
  );
  return matrix(numTokens, slots, ids);
}

describeCuda('grouped products', () => {
  let harness: CudaHarness;
  beforeAll(async () => {
    harness = await CudaHarness.open();
  });
  afterAll(() => harness.close());

  describe.each(['float32', 'float16', 'bfloat16'] as const)('%s', (dtype) => {
    const random = (count: number, seed: number): Float32Array =>
      randomValues(count, seed).map((value) => roundTo(dtype, value));
    const floats = (shape: readonly [number, number], seed: number): HarnessOperand => ({
      kind: 'weight',
      values: random(shape[0] * shape[1], seed),
      shape,
      dtype,
      layout: 'rowMajor',
    });

    it.each(Object.keys(CHOICES))('groupedLinear, tokens going to %s', async (choice) => {
      const [numMatrices, slots] = [6, 2];
      const attributes = { numMatrices, matricesPerToken: slots };
      for (const [outputs, inputs] of SHAPES)
        for (const rows of NUM_ROWS) {
          const columns = rows % 2 === 0 ? inputs : slots * inputs;
          const x = matrix(rows, columns, random(rows * columns, 1));
          const operands = [
            x,
            floats([numMatrices * outputs, inputs], 2),
            idsOf(choice, rows, numMatrices, slots),
            rows === 7 ? NONE : floats([numMatrices, outputs], 3),
          ];
          const launch = { op: 'groupedLinear', attributes, inputs: operands };
          const outputsOf = [matrix(rows, slots * outputs)];
          const step = plainStep(rows);
          await harness.check({ launch: { ...launch, outputs: outputsOf }, step, dtype }, TOLERANCES[dtype]);
        }
    });

    it('gatedGroupedLinear', async () => {
      const [numMatrices, slots] = [6, 2];
      for (const [outputs, inputs] of [
        [40, 64],
        [136, 200],
      ])
        for (const rows of NUM_ROWS)
          for (const choice of Object.keys(CHOICES)) {
            const ids = idsOf(choice, rows, numMatrices, slots);
            const weight = floats([numMatrices * 2 * outputs, inputs], 2);
            const bias = rows === 7 ? NONE : floats([numMatrices, 2 * outputs], 3);
            const attributes = { numMatrices, matricesPerToken: slots, kind: 'silu' };
            const inputsOf = [matrix(rows, inputs, random(rows * inputs, 1)), weight, ids, bias];
            const launch = { op: 'gatedGroupedLinear', attributes, inputs: inputsOf };
            const outputsOf = [matrix(rows, slots * outputs)];
            const step = plainStep(rows);
            await harness.check(
              { launch: { ...launch, outputs: outputsOf }, step, dtype },
              TOLERANCES[dtype],
            );
          }
    });

    it('groupedLinear, every token through all matrices, and on views', async () => {
      const [numMatrices, outputs, inputs] = [3, 40, 64];
      const attributes = { numMatrices, matricesPerToken: numMatrices };
      for (const rows of NUM_ROWS)
        for (const view of [{}, { columnStart: 8, rowStride: 3 * inputs + 16 }, { columnStart: 3 }]) {
          const x = matrix(rows, 3 * inputs, random(rows * 3 * inputs, 1), view);
          const operands = [x, floats([numMatrices * outputs, inputs], 2), NONE, NONE];
          const wide = { rowStride: numMatrices * outputs + 8 };
          for (const y of [matrix(rows, 3 * outputs), matrix(rows, 3 * outputs, undefined, wide)]) {
            const launch = { op: 'groupedLinear', attributes, inputs: operands, outputs: [y] };
            await harness.check({ launch, step: plainStep(rows), dtype }, TOLERANCES[dtype]);
          }
        }
    });

    const codes = (rows: number, columns: number, codeDType: 'int8' | 'float8_e4m3fn', seed: number) =>
      quantizeRows(randomValues(rows * columns, seed), {
        dtype: codeDType,
        groupSize: columns,
        hasZeros: false,
      });

    it.each(['int8', 'float8_e4m3fn'] as const)(
      'of weights of %s, and of codes times codes',
      async (code) => {
        const [numMatrices, slots] = [6, 2];
        for (const [outputs, inputs] of [
          [40, 64],
          [136, 208],
        ] as const)
          for (const rows of NUM_ROWS) {
            const weight = codes(numMatrices * outputs, inputs, code, 2);
            const shape = [numMatrices * outputs, inputs];
            const held = { kind: 'weight', layout: 'rowMajor' } as const;
            const weights: HarnessOperand[] = [
              { ...held, values: weight.codes, shape, dtype: code },
              { ...held, values: weight.scales, shape: [shape[0], 1], dtype: 'float32' },
            ];
            const ids = idsOf('mostly the first', rows, numMatrices, slots);
            const bias = rows === 7 ? NONE : floats([numMatrices, outputs], 3);
            const ofWeight = { weightDType: code, groupSize: inputs, hasZeros: false };
            const attributes = { numMatrices, matricesPerToken: slots, ...ofWeight };
            const step = plainStep(rows);
            const y = [matrix(rows, slots * outputs)];
            const columns = rows % 2 === 0 ? inputs : slots * inputs;
            const x = matrix(rows, columns, random(rows * columns, 1));
            const weightOnly = { op: 'weightOnlyGroupedLinear', attributes, outputs: y };
            const inputsOf = [x, ...weights, ids, bias];
            await harness.check(
              { launch: { ...weightOnly, inputs: inputsOf }, step, dtype },
              TOLERANCES[dtype],
            );

            const xRows = codes((rows * columns) / inputs, inputs, code, 1);
            const ofCodes = [
              matrix(rows, columns, xRows.codes, { dtype: code }),
              matrix(rows, columns / inputs, xRows.scales),
              ...weights,
              ids,
              bias,
            ];
            const both = { ...attributes, xGroupSize: inputs };
            const product = { op: 'quantizedGroupedLinear', attributes: both, inputs: ofCodes, outputs: y };
            // Hopper's tensor cores add products of float8 with 14 bits.
            const tolerance = Math.max(TOLERANCES[dtype], code === 'int8' ? 0 : 1e-3);
            await harness.check({ launch: product, step, dtype }, tolerance);
          }
      },
    );
  });
});
