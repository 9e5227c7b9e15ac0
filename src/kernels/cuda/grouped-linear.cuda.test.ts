// Grouped products against their ops' definitions: matrices without a row and with all of them, tiles that are not full, odd widths.
import { describe, it } from 'vitest';
import { matrix } from '../../../test/support/cpu-harness.ts';
import { EXPERT_CHOICES, expertChoice } from '../../../test/support/expert-choices.ts';
import { describeKernels, NO_OPERAND } from '../../../test/support/kernel-suite.ts';

const [NUM_MATRICES, SLOTS] = [6, 2];
const GROUPING = { numMatrices: NUM_MATRICES, matricesPerToken: SLOTS };
const NUM_ROWS = [1, 7, 40, 150];

describeKernels('grouped products', (kernels) => {
  describe.each(EXPERT_CHOICES)('of tokens that go to %s', (choice) => {
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
        await kernels.check(
          'groupedLinear',
          GROUPING,
          [x, weight, expertChoice(choice, rows, NUM_MATRICES, SLOTS), bias],
          [y],
        );
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
        await kernels.check(
          'gatedGroupedLinear',
          attributes,
          [x, weight, expertChoice(choice, rows, NUM_MATRICES, SLOTS), bias],
          [y],
        );
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
});
