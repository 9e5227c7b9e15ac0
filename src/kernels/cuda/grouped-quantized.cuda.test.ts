// Grouped products of weights of codes, and of codes times codes, against their ops' definitions.
import { describe, it } from 'vitest';
import { matrix } from '../../../test/support/cpu-harness.ts';
import { expertChoice } from '../../../test/support/expert-choices.ts';
import { describeKernels, NO_OPERAND } from '../../../test/support/kernel-suite.ts';
import {
  codedActivations,
  codedRows,
  codedWeight,
  sumError,
} from '../../../test/support/quantized-operands.ts';

const [NUM_MATRICES, SLOTS] = [6, 2];
const GROUPING = { numMatrices: NUM_MATRICES, matricesPerToken: SLOTS };
const NUM_ROWS = [1, 7, 40, 150];

describeKernels('grouped products of codes', (kernels) => {
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
        const rest = [...operands, expertChoice('mostly the first', rows, NUM_MATRICES, SLOTS), bias];
        const x = matrix(rows, columns, kernels.random(rows * columns, 1));
        const all = { ...attributes, ...GROUPING };
        const y = [matrix(rows, SLOTS * outputs)];
        await kernels.check('weightOnlyGroupedLinear', all, [x, ...rest], y);
        const coded = codedActivations(rows, columns, codes, inputs);
        const both = { ...all, xGroupSize: inputs };
        const tolerance = Math.max(kernels.tolerance, sumError(codes, inputs));
        await kernels.check('quantizedGroupedLinear', both, [...coded, ...rest], y, tolerance);
      }
    });

    it('gated, by numbers and by codes', async () => {
      const [outputs, inputs] = [72, 208];
      const { attributes, operands } = codedRows(NUM_MATRICES * 2 * outputs, inputs, codes);
      const all = { ...attributes, ...GROUPING, kind: 'silu' };
      for (const rows of NUM_ROWS) {
        const rest = [...operands, expertChoice('mostly the first', rows, NUM_MATRICES, SLOTS), NO_OPERAND];
        const x = matrix(rows, inputs, kernels.random(rows * inputs, 1));
        const y = [matrix(rows, SLOTS * outputs)];
        await kernels.check('gatedWeightOnlyGroupedLinear', all, [x, ...rest], y);
        const coded = codedActivations(rows, inputs, codes);
        const tolerance = Math.max(kernels.tolerance, 3 * sumError(codes, inputs));
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
