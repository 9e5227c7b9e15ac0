// Products of codes with codes against their op's definition, by every kernel that takes them.
import { describe, it } from 'vitest';
import { matrix } from '../../../test/support/cpu-harness.ts';
import { describeKernels, NO_OPERAND } from '../../../test/support/kernel-suite.ts';
import {
  codedActivations,
  codedRows,
  codedWeight,
  NUM_ROWS,
  sumError,
} from '../../../test/support/quantized-operands.ts';

describeKernels('quantizedLinear', (kernels) => {
  describe.each(['int8', 'float8_e4m3fn'] as const)('of %s', (codes) => {
    it.each([
      [40, 64, NUM_ROWS],
      [17, 128, NUM_ROWS],
      [257, 1152, NUM_ROWS],
      [33, 48, NUM_ROWS],
      // Tiles of many parts, and more of them than blocks.
      [40, 4224, [33, 130]],
      [8520, 384, [16, 64, 70]],
      // Tiles of 192 rows, the last in halves; and shared by pairs of blocks.
      [17000, 128, [150]],
      [4240, 3072, [150]],
    ])('%d outputs of %d inputs, by every kernel that fits', async (outputs, inputs, numsOfRows) => {
      const { attributes, operands } = codedRows(outputs, inputs, codes);
      for (const rows of numsOfRows) {
        const bias = rows % 2 === 0 ? NO_OPERAND : kernels.vector(outputs, 4);
        const all = { ...attributes, xGroupSize: inputs };
        const inputsOf = [...codedActivations(rows, inputs, codes), ...operands, bias];
        const tolerance = Math.max(kernels.tolerance, sumError(codes, inputs));
        await kernels.check('quantizedLinear', all, inputsOf, [matrix(rows, outputs)], tolerance);
      }
    });

    it('in groups, and on views that are not aligned', async () => {
      const { attributes, operands } = codedWeight(24, 128, { dtype: codes, groupSize: 32, hasZeros: false });
      for (const [xGroupSize, view] of [
        [64, {}],
        [128, { columnStart: 3, rowStride: 133 }],
      ] as const) {
        const x = codedActivations(5, 128, codes, xGroupSize, view);
        const y = matrix(5, 24, undefined, { columnStart: 1 });
        const all = { ...attributes, xGroupSize };
        await kernels.check('quantizedLinear', all, [...x, ...operands, NO_OPERAND], [y]);
      }
    });
  });
});
