// Products of a single row against their ops' definitions, at the sizes where its kernel's tiles and pieces begin and end.
import { describe, it } from 'vitest';
import { matrix } from '../../../test/support/cpu-harness.ts';
import { describeKernels, NO_OPERAND } from '../../../test/support/kernel-suite.ts';
import {
  codedActivations,
  codedRows,
  codedWeight,
  sumError,
} from '../../../test/support/quantized-operands.ts';

/**
 * Outputs: one, one less than a tile, one more, and one more than a tile on each multiprocessor of an H200. Inputs: the
 * shortest row, one of more than a piece a thread, and the longest.
 */
function sizes(shortest: number, more: number, longest: number): (readonly [number, number])[] {
  return [
    ...[1, 15, 17, 2113].map((outputs) => [outputs, shortest] as const),
    ...[1, 15].map((outputs) => [outputs, more] as const),
    [17, longest],
    [2113, 3 * shortest],
  ];
}

describeKernels('products of one row', (kernels) => {
  it.each(sizes(64, 2112, 29696))('linear, %d outputs of %d inputs', async (outputs, inputs) => {
    const bias = outputs % 3 === 0 ? kernels.vector(outputs, 3) : NO_OPERAND;
    const x = matrix(1, inputs, kernels.random(inputs, 1));
    const weight = kernels.weight([outputs, inputs], 2);
    await kernels.check('linear', {}, [x, weight, bias], [matrix(1, outputs)]);
  });

  describe.each(['int8', 'float8_e4m3fn', 'uint4'] as const)('weightOnlyLinear of %s', (dtype) => {
    it.each(sizes(256, 2304, 19712))('%d outputs of %d inputs', async (outputs, inputs) => {
      const bias = outputs % 3 === 0 ? kernels.vector(outputs, 3) : NO_OPERAND;
      const isGrouped = dtype === 'uint4';
      const format = { dtype, groupSize: isGrouped ? 128 : inputs, hasZeros: isGrouped };
      const { attributes, operands } = codedWeight(outputs, inputs, format);
      const x = matrix(1, inputs, kernels.random(inputs, 1));
      await kernels.check('weightOnlyLinear', attributes, [x, ...operands, bias], [matrix(1, outputs)]);
    });
  });

  describe.each(['int8', 'float8_e4m3fn'] as const)('quantizedLinear of %s', (dtype) => {
    it.each(sizes(128, 2176, 19712))('%d outputs of %d inputs', async (outputs, inputs) => {
      const bias = outputs % 3 === 0 ? kernels.vector(outputs, 3) : NO_OPERAND;
      const { attributes, operands } = codedRows(outputs, inputs, dtype);
      const inputsOf = [...codedActivations(1, inputs, dtype), ...operands, bias];
      const all = { ...attributes, xGroupSize: inputs };
      const tolerance = Math.max(kernels.tolerance, sumError(dtype, inputs));
      await kernels.check('quantizedLinear', all, inputsOf, [matrix(1, outputs)], tolerance);
    });
  });
});
