// Products of numbers with codes against their op's definition, by every kernel that takes them.
import { describe, it } from 'vitest';
import { matrix } from '../../../test/support/cpu-harness.ts';
import { describeKernels, NO_OPERAND } from '../../../test/support/kernel-suite.ts';
import { codedWeight, NUM_ROWS } from '../../../test/support/quantized-operands.ts';

describeKernels('weightOnlyLinear', (kernels) => {
  describe.each([
    ['int8', null, false],
    ['float8_e4m3fn', null, false],
    ['int8', 64, false],
    ['uint4', 128, true],
    ['uint4', 128, false],
    ['uint4', 32, true],
  ] as const)('of %s in groups of %s, zeros: %s', (dtype, size, hasZeros) => {
    it.each([[40, 128], [17, 384], [257, 1280], ...(size === null ? [[33, dtype === 'int8' ? 7 : 40]] : [])])(
      '%d outputs of %d inputs',
      async (outputs, inputs) => {
        const format = { dtype, groupSize: size ?? inputs, hasZeros };
        const { attributes, operands } = codedWeight(outputs, inputs, format);
        for (const rows of NUM_ROWS) {
          const x = matrix(rows, inputs, kernels.random(rows * inputs, 1));
          const bias = rows % 2 === 0 ? NO_OPERAND : kernels.vector(outputs, 4);
          await kernels.check(
            'weightOnlyLinear',
            attributes,
            [x, ...operands, bias],
            [matrix(rows, outputs)],
          );
        }
      },
    );
  });
});
