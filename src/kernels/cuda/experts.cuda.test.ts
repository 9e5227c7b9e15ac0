// Products with one matrix of several for each row, as experts do them, against their ops' definitions.
import { it } from 'vitest';
import { matrix } from '../../../test/support/cpu-harness.ts';
import { describeKernels, NO_OPERAND } from '../../../test/support/kernel-suite.ts';
import { codedActivations, codedRows, codedWeight } from '../../../test/support/quantized-operands.ts';

describeKernels('grouped products', (kernels) => {
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
