// What a mixture of experts launches against its ops' definitions: the choice of experts, their products, and their sum.
import { describe, it } from 'vitest';
import { matrix } from '../../../test/support/cpu-harness.ts';
import { describeKernels, NO_OPERAND } from '../../../test/support/kernel-suite.ts';
import { codedActivations, codedRows, codedWeight } from '../../../test/support/quantized-operands.ts';

/** Numbers of experts, of each token's, of groups and of groups that are chosen from. */
const ROUTINGS = [
  [1, 1, 1, 1],
  [8, 2, 1, 1],
  [40, 40, 1, 1],
  [60, 4, 5, 2],
  [256, 8, 8, 4],
] as const;

/** Distinct, at least 1/8 apart and whole eighths, which every type holds. */
function distinctLogits(rows: number, columns: number): Float32Array {
  return Float32Array.from({ length: rows * columns }, (_, i) => {
    const [row, column] = [Math.floor(i / columns), i % columns];
    return (((column * 97 + row * 31) % columns) - columns / 2) / 8;
  });
}

describeKernels('experts', (kernels) => {
  describe.each(['softmax', 'sigmoid'] as const)('routeExperts by %s', (scoring) => {
    it.each(ROUTINGS)('%d experts, %d a token, %d groups, of which %d', async (...sizes) => {
      const [numExperts, numExpertsPerToken, numGroups, numSelected] = sizes;
      const rows = 5;
      // Quarters keep a sigmoid's scores of many experts apart.
      const values = distinctLogits(rows, numExperts).map((value) => value / (scoring === 'sigmoid' ? 4 : 1));
      const logits = matrix(rows, numExperts, values, { columnStart: 1 });
      for (const score of ['best', 'twoBest'] as const) {
        const groups = numGroups === 1 ? null : { numGroups, numSelected, score };
        const attributes = { numExpertsPerToken, scoring, normalize: score === 'best', scale: 2.5, groups };
        // An array of ints marks the output as one.
        const noIds = new Int32Array(rows * numExpertsPerToken).fill(-1);
        const outputs = [matrix(rows, numExpertsPerToken), matrix(rows, numExpertsPerToken, noIds)];
        // Weights are rounded; ids are right or wrong.
        const tolerances = [kernels.tolerance, 0];
        await kernels.check('routeExperts', attributes, [logits, NO_OPERAND], outputs, tolerances);
      }
    });
  });

  it.each([
    [1, 1, 1],
    [3, 2, 17],
    [2, 8, 1030],
    [1, 3, 2049],
  ])('combineExperts of %d rows, %d a token, %d columns', async (rows, perToken, columns) => {
    const count = rows * perToken;
    const x = matrix(rows, perToken * columns, kernels.random(count * columns, 1), { columnStart: 1 });
    const weights = matrix(rows, perToken, kernels.random(count, 2), { columnStart: 3 });
    await kernels.check('combineExperts', {}, [x, weights], [matrix(rows, columns)]);
  });

  it.each([
    [19, 72],
    [24, 64],
    [8, 7],
    [130, 264],
  ])('groupedLinear, %d outputs of %d inputs', async (outputs, inputs) => {
    const [numMatrices, matricesPerToken, rows] = [5, 3, 7];
    const weight = kernels.weight([numMatrices * outputs, inputs], 2);
    const bias = kernels.vector(numMatrices * outputs, 3);
    const ids = Int32Array.from({ length: rows * matricesPerToken }, (_, i) => (i * 2) % numMatrices);
    for (const columns of [inputs, matricesPerToken * inputs]) {
      const x = matrix(rows, columns, kernels.random(rows * columns, 1));
      const chosen = matrix(rows, matricesPerToken, ids);
      const y = matrix(rows, matricesPerToken * outputs);
      const attributes = { numMatrices, matricesPerToken };
      for (const last of [[], [bias]])
        await kernels.check('groupedLinear', attributes, [x, weight, chosen, ...last], [y]);
    }
  });

  it.each(['int8', 'float8_e4m3fn'] as const)('quantizedGroupedLinear of %s', async (codes) => {
    const [numMatrices, matricesPerToken, outputs, inputs] = [4, 2, 19, 72];
    const { attributes, operands } = codedRows(numMatrices * outputs, inputs, codes);
    const ids = matrix(3, 2, Int32Array.of(0, 3, 2, 1, 3, 2));
    const all = { ...attributes, xGroupSize: inputs, numMatrices, matricesPerToken };
    for (const columns of [inputs, 2 * inputs]) {
      const x = codedActivations(3, columns, codes, inputs);
      const rest = [...operands, ids, kernels.weight([numMatrices, outputs], 5)];
      await kernels.check('quantizedGroupedLinear', all, [...x, ...rest], [matrix(3, 2 * outputs)]);
    }
  });

  it.each(['int8', 'uint4'] as const)('weightOnlyGroupedLinear of %s', async (dtype) => {
    const [numMatrices, matricesPerToken, outputs, inputs] = [3, 3, 21, 64];
    const format = { dtype, groupSize: 32, hasZeros: dtype === 'uint4' };
    const { attributes, operands } = codedWeight(numMatrices * outputs, inputs, format);
    const x = matrix(4, inputs, kernels.random(4 * inputs, 1));
    const all = { ...attributes, numMatrices, matricesPerToken };
    const inputsOf = [x, ...operands, NO_OPERAND, NO_OPERAND];
    await kernels.check('weightOnlyGroupedLinear', all, inputsOf, [matrix(4, 3 * outputs)]);
  });
});
