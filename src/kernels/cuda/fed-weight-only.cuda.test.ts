// Products of numbers with codes fused with the norm or gated activation before them against their ops' definitions.
import { describe, it } from 'vitest';
import { matrix } from '../../../test/support/cpu-harness.ts';
import { sourcesOf } from '../../../test/support/fed-operands.ts';
import { describeKernels } from '../../../test/support/kernel-suite.ts';
import { codedWeight } from '../../../test/support/quantized-operands.ts';

describeKernels('weight-only products fused with what is before them', (kernels) => {
  describe.each([1, 2])('%d rows', (rows) => {
    it.each([
      ['int8', null, false],
      ['float8_e4m3fn', null, false],
      ['int8', 64, false],
      ['uint4', 128, true],
      ['uint4', 256, false],
    ] as const)('weightOnlyLinear of %s in groups of %s, zeros: %s', async (dtype, size, hasZeros) => {
      for (const [outputs, inputs] of [
        [1, 256],
        [40, 256],
        [17, 768],
        [2208, 4352],
      ]) {
        const format = { dtype, groupSize: size ?? inputs, hasZeros };
        const { attributes: product, operands } = codedWeight(outputs, inputs, format);
        const { x, residual, both, gain } = sourcesOf(kernels, rows, inputs);
        const bias = kernels.vector(outputs, 5);
        const source = { eps: 1e-5, weightOffset: 0 };
        const alone = { source: { ...source, groupSize: inputs }, product, numOptional: 0 };
        const [sum, made, y] = [matrix(rows, inputs), matrix(rows, inputs), matrix(rows, outputs)];
        await kernels.check('rmsNormWeightOnlyLinear', alone, [x, gain, ...operands, bias], [made, y]);
        const after = [x, residual, gain, ...operands, bias];
        const added = { source, product, numOptional: 0 };
        await kernels.check('addRmsNormWeightOnlyLinear', added, after, [sum, made, y]);
        const gated = { source: { kind: 'silu' }, product, numOptional: 0 };
        await kernels.check('gatedActivationWeightOnlyLinear', gated, [both, ...operands, bias], [made, y]);
        if (outputs % 16 !== 0) continue;
        const gating = { source, product: { ...product, kind: 'silu' }, numOptional: 0 };
        const half = matrix(rows, outputs / 2);
        await kernels.check('addRmsNormGatedWeightOnlyLinear', gating, after, [sum, made, half]);
      }
    });
  });
});
