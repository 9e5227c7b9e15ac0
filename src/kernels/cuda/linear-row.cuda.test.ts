// Products of a single row against their ops' definitions, at the sizes where its kernel's tiles and pieces begin and end.
import { it } from 'vitest';
import { matrix } from '../../../test/support/cpu-harness.ts';
import { describeKernels, NO_OPERAND } from '../../../test/support/kernel-suite.ts';
import { codedActivations, codedRows, codedWeight } from '../../../test/support/quantized-operands.ts';

/** One output, one less than a tile, one more, one more than a tile on each multiprocessor of an H200. */
const OUTPUTS = [1, 15, 17, 2113];

describeKernels('products of one row', (kernels) => {
  it.each(OUTPUTS)('linear, %d outputs', async (outputs) => {
    const bias = outputs % 3 === 0 ? kernels.vector(outputs, 3) : NO_OPERAND;
    // The shortest row, one of more than a piece a thread, and the longest.
    for (const inputs of outputs > 1000 ? [64, 192] : [64, 2112, 29696]) {
      const x = matrix(1, inputs, kernels.random(inputs, 1));
      const weight = kernels.weight([outputs, inputs], 2);
      await kernels.check('linear', {}, [x, weight, bias], [matrix(1, outputs)]);
    }
  });

  it.each(
    OUTPUTS.flatMap((outputs) =>
      (['int8', 'float8_e4m3fn', 'uint4'] as const).map((dtype) => [outputs, dtype] as const),
    ),
  )('weightOnlyLinear, %d outputs of %s', async (outputs, dtype) => {
    const bias = outputs % 3 === 0 ? kernels.vector(outputs, 3) : NO_OPERAND;
    for (const inputs of outputs > 1000 ? [256, 768] : [256, 2304, 19712]) {
      const isGrouped = dtype === 'uint4';
      const format = { dtype, groupSize: isGrouped ? 128 : inputs, hasZeros: isGrouped };
      const { attributes, operands } = codedWeight(outputs, inputs, format);
      const x = matrix(1, inputs, kernels.random(inputs, 1));
      await kernels.check('weightOnlyLinear', attributes, [x, ...operands, bias], [matrix(1, outputs)]);
    }
  });

  it.each(OUTPUTS)('quantizedLinear of int8, %d outputs', async (outputs) => {
    const bias = outputs % 3 === 0 ? kernels.vector(outputs, 3) : NO_OPERAND;
    for (const inputs of outputs > 1000 ? [128, 640] : [128, 2176, 19712]) {
      const { attributes, operands } = codedRows(outputs, inputs, 'int8');
      const inputsOf = [...codedActivations(1, inputs, 'int8'), ...operands, bias];
      const all = { ...attributes, xGroupSize: inputs };
      await kernels.check('quantizedLinear', all, inputsOf, [matrix(1, outputs)]);
    }
  });
});
