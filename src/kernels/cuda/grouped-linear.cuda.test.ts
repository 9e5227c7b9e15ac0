// Grouped products against their ops' definitions: matrices without a row and with all of them, tiles that are not full, odd widths.
import { describe, it } from 'vitest';
import { matrix, type Matrix } from '../../../test/support/cpu-harness.ts';
import { describeKernels, NO_OPERAND } from '../../../test/support/kernel-suite.ts';
import {
  codedActivations,
  codedRows,
  codedWeight,
  SUM_ERRORS,
} from '../../../test/support/quantized-operands.ts';

const [NUM_MATRICES, SLOTS] = [6, 2];
const GROUPING = { numMatrices: NUM_MATRICES, matricesPerToken: SLOTS };
const NUM_ROWS = [1, 7, 40, 150];

/** How a token chooses its matrices. */
const CHOICES: Readonly<Record<string, (token: number, slot: number) => number>> = {
  'all matrices in turn': (token, slot) => (token * 3 + slot) % NUM_MATRICES,
  'the last ones alone': (_, slot) => NUM_MATRICES - 1 - slot,
  'mostly the first': (token, slot) => (token % 9 === 0 ? (slot + 2) % NUM_MATRICES : slot),
};

function idsOf(choice: string, numTokens: number): Matrix {
  const ids = Int32Array.from({ length: numTokens * SLOTS }, (_, i) =>
    CHOICES[choice](Math.floor(i / SLOTS), i % SLOTS),
  );
  return matrix(numTokens, SLOTS, ids);
}

describeKernels('grouped products', (kernels) => {
  describe.each(Object.keys(CHOICES))('of tokens that go to %s', (choice) => {
    it.each([
      [40, 64],
      [136, 200],
      [17, 72],
      [24, 7],
    ])('groupedLinear, %d outputs of %d inputs', async (outputs, inputs) => {
      const weight = kernels.weight([NUM_MATRICES * outputs, inputs], 2);
      for (const rows of NUM_ROWS) {
        const columns = rows % 2 === 0 ? inputs : SLOTS * inputs;
        const x = matrix(rows, columns, kernels.random(rows * columns, 1));
        const bias = rows === 7 ? NO_OPERAND : kernels.vector(NUM_MATRICES * outputs, 3);
        const y = matrix(rows, SLOTS * outputs);
        await kernels.check('groupedLinear', GROUPING, [x, weight, idsOf(choice, rows), bias], [y]);
      }
    });

    it.each([
      [40, 64],
      [136, 200],
    ])('gatedGroupedLinear, %d outputs of %d inputs', async (outputs, inputs) => {
      const weight = kernels.weight([NUM_MATRICES * 2 * outputs, inputs], 2);
      for (const rows of NUM_ROWS) {
        const bias = rows === 7 ? NO_OPERAND : kernels.vector(NUM_MATRICES * 2 * outputs, 3);
        const x = matrix(rows, inputs, kernels.random(rows * inputs, 1));
        const attributes = { ...GROUPING, kind: 'silu' };
        const y = matrix(rows, SLOTS * outputs);
        await kernels.check('gatedGroupedLinear', attributes, [x, weight, idsOf(choice, rows), bias], [y]);
      }
    });
  });

  it('groupedLinear, every token through all matrices, and on views', async () => {
    const [numMatrices, outputs, inputs] = [3, 40, 64];
    const attributes = { numMatrices, matricesPerToken: numMatrices };
    const weight = kernels.weight([numMatrices * outputs, inputs], 2);
    for (const rows of NUM_ROWS)
      for (const view of [{}, { columnStart: 8, rowStride: 3 * inputs + 16 }, { columnStart: 3 }]) {
        const x = matrix(rows, 3 * inputs, kernels.random(rows * 3 * inputs, 1), view);
        const wide = { rowStride: numMatrices * outputs + 8 };
        for (const y of [matrix(rows, 3 * outputs), matrix(rows, 3 * outputs, undefined, wide)])
          await kernels.check('groupedLinear', attributes, [x, weight], [y]);
      }
  });

  describe.each(['int8', 'float8_e4m3fn'] as const)('of %s', (codes) => {
    it.each([
      [19, 72],
      [40, 64],
      [136, 208],
    ])('%d outputs of %d inputs, by numbers and by codes', async (outputs, inputs) => {
      const { attributes, operands } = codedRows(NUM_MATRICES * outputs, inputs, codes);
      for (const rows of NUM_ROWS) {
        const columns = rows % 2 === 0 ? inputs : SLOTS * inputs;
        const bias = rows === 7 ? NO_OPERAND : kernels.vector(NUM_MATRICES * outputs, 3);
        const rest = [...operands, idsOf('mostly the first', rows), bias];
        const x = matrix(rows, columns, kernels.random(rows * columns, 1));
        const all = { ...attributes, ...GROUPING };
        const y = [matrix(rows, SLOTS * outputs)];
        await kernels.check('weightOnlyGroupedLinear', all, [x, ...rest], y);
        const coded = codedActivations(rows, columns, codes, inputs);
        const both = { ...all, xGroupSize: inputs };
        const tolerance = Math.max(kernels.tolerance, SUM_ERRORS[codes]);
        await kernels.check('quantizedGroupedLinear', both, [...coded, ...rest], y, tolerance);
      }
    });

    it('gated, by numbers and by codes', async () => {
      const [outputs, inputs] = [72, 208];
      const { attributes, operands } = codedRows(NUM_MATRICES * 2 * outputs, inputs, codes);
      const all = { ...attributes, ...GROUPING, kind: 'silu' };
      for (const rows of NUM_ROWS) {
        const rest = [...operands, idsOf('mostly the first', rows), NO_OPERAND];
        const x = matrix(rows, inputs, kernels.random(rows * inputs, 1));
        const y = [matrix(rows, SLOTS * outputs)];
        await kernels.check('gatedWeightOnlyGroupedLinear', all, [x, ...rest], y);
        const coded = codedActivations(rows, inputs, codes);
        const tolerance = Math.max(kernels.tolerance, 3 * SUM_ERRORS[codes]);
        const both = { ...all, xGroupSize: inputs };
        await kernels.check('gatedQuantizedGroupedLinear', both, [...coded, ...rest], y, tolerance);
      }
    });
  });

  it.each(['int8', 'uint4'] as const)('of weights of %s with a scale for each group', async (dtype) => {
    const [numMatrices, outputs, inputs] = [3, 21, 64];
    const format = { dtype, groupSize: 32, hasZeros: dtype === 'uint4' };
    const { attributes, operands } = codedWeight(numMatrices * outputs, inputs, format);
    const x = matrix(4, inputs, kernels.random(4 * inputs, 1));
    const all = { ...attributes, numMatrices, matricesPerToken: numMatrices };
    const inputsOf = [x, ...operands, NO_OPERAND, NO_OPERAND];
    await kernels.check('weightOnlyGroupedLinear', all, inputsOf, [matrix(4, 3 * outputs)]);
  });
});
