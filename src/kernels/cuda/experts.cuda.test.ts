// The choice of experts and the sum of their answers against their ops' definitions.
import { describe, it } from 'vitest';
import { matrix } from '../../../test/support/cpu-harness.ts';
import { describeKernels, NO_OPERAND } from '../../../test/support/kernel-suite.ts';

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
});
