// Products of numbers against their op's definition, by every kernel that takes them.
import { it } from 'vitest';
import { matrix } from '../../../test/support/cpu-harness.ts';
import { describeKernels, NO_OPERAND } from '../../../test/support/kernel-suite.ts';

/** Outputs and inputs. */
const SHAPES = [
  [40, 64],
  [17, 32],
  [257, 1056],
  [50, 2600],
  [64, 40],
  [33, 7],
] as const;

describeKernels('linear', (kernels) => {
  it.each([true, false])('by every kernel that fits, with bias: %s', async (hasBias) => {
    for (const [outputs, inputs] of SHAPES) {
      const weight = kernels.weight([outputs, inputs], 2);
      const bias = hasBias ? kernels.vector(outputs, 3) : NO_OPERAND;
      for (const rows of [1, 3, 8, 9, 16, 17, 33, 100]) {
        const x = matrix(rows, inputs, kernels.random(rows * inputs, 1));
        await kernels.check('linear', {}, [x, weight, bias], [matrix(rows, outputs)]);
      }
    }
  });

  it('of many rows', async () => {
    for (const [outputs, inputs] of [
      [16, 8],
      [144, 200],
      [272, 72],
    ]) {
      const weight = kernels.weight([outputs, inputs], 2);
      for (const rows of [257, 520]) {
        const x = matrix(rows, inputs, kernels.random(rows * inputs, 1));
        const bias = rows === 257 ? kernels.vector(outputs, 3) : NO_OPERAND;
        const y = matrix(rows, outputs, undefined, { rowStride: outputs + 8 });
        await kernels.check('linear', {}, [x, weight, bias], [y]);
      }
    }
  });

  it('of more tiles than fit at once', async () => {
    const [rows, outputs, inputs] = [257, 17024, 8];
    const x = matrix(rows, inputs, kernels.random(rows * inputs, 1));
    await kernels.check('linear', {}, [x, kernels.weight([outputs, inputs], 2)], [matrix(rows, outputs)]);
  });

  it('on views that are not aligned', async () => {
    const x = matrix(5, 64, kernels.random(5 * 64, 1), { columnStart: 3, rowStride: 69 });
    const y = matrix(5, 24, undefined, { columnStart: 1 });
    await kernels.check('linear', {}, [x, kernels.weight([24, 64], 2)], [y]);
  });
});
