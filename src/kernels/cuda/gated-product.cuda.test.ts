// Products fused with the gatedActivation after them against their ops' definitions, by every kernel that takes them.
import { describe, it } from 'vitest';
import { ACTIVATION_KINDS } from '../../ir/ops/activation-kinds.ts';
import { matrix } from '../../../test/support/cpu-harness.ts';
import { sourcesOf } from '../../../test/support/fed-operands.ts';
import { describeKernels, NO_OPERAND } from '../../../test/support/kernel-suite.ts';
import {
  CODE_STEPS,
  codedActivations,
  codedRows,
  codedWeight,
  codesAndScales,
  givenScales,
  NUM_ROWS,
  sumError,
  wide,
} from '../../../test/support/quantized-operands.ts';

describeKernels('gated products', (kernels) => {
  it.each(ACTIVATION_KINDS)('gatedLinear with %s', async (kind) => {
    const weight = kernels.weight([48, 64], 2);
    // Kernels for fewer rows apply the same function.
    for (const rows of kind === 'silu' ? [1, 9, 70] : [70]) {
      const x = matrix(rows, 64, kernels.random(rows * 64, 1));
      await kernels.check('gatedLinear', { kind }, [x, weight], [matrix(rows, 24)]);
    }
  });

  it.each([
    [16, 40],
    [48, 264],
    [144, 200],
    [272, 72],
    // More tiles than fit at once.
    [17024, 8],
  ])('gatedLinear, %d outputs of %d inputs', async (outputs, inputs) => {
    const weight = kernels.weight([outputs, inputs], 2);
    for (const rows of outputs > 1000 ? [150, 257] : [1, 17, 130, 257, 520]) {
      const x = matrix(rows, inputs, kernels.random(rows * inputs, 1));
      const bias = rows % 2 === 0 ? NO_OPERAND : kernels.vector(outputs, 3);
      const y = matrix(rows, outputs / 2, undefined, { rowStride: outputs + 8 });
      await kernels.check('gatedLinear', { kind: 'silu' }, [x, weight, bias], [y]);
    }
  });

  it.each([
    ['int8', null, false],
    ['float8_e4m3fn', null, false],
    ['uint4', 128, true],
  ] as const)('gatedWeightOnlyLinear of %s in groups of %s, zeros: %s', async (dtype, size, hasZeros) => {
    for (const [outputs, inputs] of [
      [16, 256],
      [2208, 4352],
    ]) {
      const format = { dtype, groupSize: size ?? inputs, hasZeros };
      const { attributes, operands } = codedWeight(outputs, inputs, format);
      for (const rows of [1, 3, 40]) {
        const { x } = sourcesOf(kernels, rows, inputs);
        const bias = rows === 1 ? kernels.vector(outputs, 4) : NO_OPERAND;
        const y = [matrix(rows, outputs / 2)];
        await kernels.check(
          'gatedWeightOnlyLinear',
          { ...attributes, kind: 'silu' },
          [x, ...operands, bias],
          y,
        );
      }
    }
  });

  describe.each(['int8', 'float8_e4m3fn'] as const)('of %s', (codes) => {
    it('gatedQuantizedLinear', async () => {
      for (const [outputs, inputs] of [
        [48, 128],
        [272, 1152],
      ]) {
        const { attributes, operands } = codedRows(outputs, inputs, codes);
        for (const rows of NUM_ROWS) {
          const bias = rows % 2 === 0 ? NO_OPERAND : kernels.vector(outputs, 4);
          const all = { ...attributes, xGroupSize: inputs, kind: 'silu' };
          const inputsOf = [...codedActivations(rows, inputs, codes), ...operands, bias];
          const tolerance = Math.max(kernels.tolerance, 3 * sumError(codes, inputs));
          const y = [matrix(rows, outputs / 2)];
          await kernels.check('gatedQuantizedLinear', all, inputsOf, y, tolerance);
        }
      }
    });

    it('gatedQuantizedLinear, of which codes are made under a scale that is given', async () => {
      for (const [outputs, inputs] of [
        [48, 128],
        [272, 1152],
        [544, 384],
        // More tiles than fit at once, the last in halves.
        [17024, 128],
      ]) {
        const { attributes, operands } = codedRows(outputs, inputs, codes);
        const columns = outputs / 2;
        const quantize = { dtype: codes, groupSize: columns };
        const all = { ...attributes, xGroupSize: inputs, kind: 'silu', quantize };
        const given = wide([2], givenScales(codes, inputs));
        for (const rows of outputs > 1000 ? [150] : NUM_ROWS) {
          const bias = rows % 2 === 0 ? NO_OPERAND : kernels.vector(outputs, 4);
          const inputsOf = [...codedActivations(rows, inputs, codes), ...operands, given, bias];
          const scales = matrix(rows, 1, undefined, { rowStride: 3 });
          const y = [codesAndScales(rows, columns, codes)[0], scales];
          const tolerance = 2 * CODE_STEPS[codes] + 3 * sumError(codes, inputs);
          await kernels.check('gatedQuantizedLinearQuantize', all, inputsOf, y, [tolerance, 0]);
        }
      }
    });
  });
});
