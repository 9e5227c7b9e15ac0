// Products of numbers fused with the norm or gated activation before them against their ops' definitions: one row, which a
// single kernel does, and two.
import { describe, it } from 'vitest';
import { ACTIVATION_KINDS } from '../../ir/ops/activation-kinds.ts';
import { matrix } from '../../../test/support/cpu-harness.ts';
import { sourcesOf } from '../../../test/support/fed-operands.ts';
import { describeKernels, NO_OPERAND } from '../../../test/support/kernel-suite.ts';

describeKernels('products fused with what is before them', (kernels) => {
  describe.each([1, 2])('%d rows', (rows) => {
    it.each([
      [1, 64],
      [40, 64],
      [2200, 192],
      [33, 4160],
      [50, 2600],
      // The longest row that the kernel for one takes.
      [17, 29696],
    ])('linear, %d outputs of %d inputs', async (outputs, inputs) => {
      const { x, residual, both, gain } = sourcesOf(kernels, rows, inputs);
      const bias = rows === 1 ? kernels.vector(outputs, 5) : NO_OPERAND;
      const operands = [kernels.weight([outputs, inputs], 4), bias];
      const made = matrix(rows, inputs);
      const y = matrix(rows, outputs);
      const norm = { eps: 1e-5, weightOffset: rows - 1 };
      const alone = { source: { ...norm, groupSize: inputs }, product: {}, numOptional: 0 };
      await kernels.check('rmsNormLinear', alone, [x, gain, ...operands], [made, y]);
      const after = { source: norm, product: {}, numOptional: 0 };
      const sum = matrix(rows, inputs);
      await kernels.check('addRmsNormLinear', after, [x, residual, gain, ...operands], [sum, made, y]);
      const gated = { source: { kind: 'silu' }, product: {}, numOptional: 0 };
      await kernels.check('gatedActivationLinear', gated, [both, ...operands], [made, y]);
    });

    it.each([
      [8, 64],
      [1064, 192],
      [40, 2624],
    ])('gatedLinear, %d outputs of %d inputs', async (outputs, inputs) => {
      const { x, residual, gain } = sourcesOf(kernels, rows, inputs);
      const weight = kernels.weight([2 * outputs, inputs], 4);
      const attributes = {
        source: { eps: 1e-5, weightOffset: 0 },
        product: { kind: 'silu' },
        numOptional: 0,
      };
      const made = [matrix(rows, inputs), matrix(rows, inputs), matrix(rows, outputs)];
      await kernels.check('addRmsNormGatedLinear', attributes, [x, residual, gain, weight], made);
    });
  });

  it.each(ACTIVATION_KINDS)('linear after gatedActivation with %s', async (kind) => {
    const { both } = sourcesOf(kernels, 1, 64);
    const attributes = { source: { kind }, product: {}, numOptional: 0 };
    const inputs = [both, kernels.weight([40, 64], 5)];
    await kernels.check('gatedActivationLinear', attributes, inputs, [matrix(1, 64), matrix(1, 40)]);
  });

  it('linear after a norm of a view that is not aligned', async () => {
    const { x, gain } = sourcesOf(kernels, 1, 128, { columnStart: 3 });
    const source = { eps: 1e-5, weightOffset: 0, groupSize: 128 };
    const inputs = [x, gain, kernels.weight([24, 128], 5)];
    const outputs = [matrix(1, 128), matrix(1, 24)];
    const attributes = { source, product: {}, numOptional: 0 };
    await kernels.check('rmsNormLinear', attributes, inputs, outputs);
  });
});
