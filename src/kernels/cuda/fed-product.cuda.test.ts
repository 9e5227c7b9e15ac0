// Products fused with the norm or gated activation before them against their ops' definitions: one row, which a single kernel
// does, and two.
import { describe, it } from 'vitest';
import { ACTIVATION_KINDS } from '../../ir/ops/activation-kinds.ts';
import { matrix, type HarnessOperand, type Matrix } from '../../../test/support/cpu-harness.ts';
import { describeKernels, NO_OPERAND, type KernelSuite } from '../../../test/support/kernel-suite.ts';
import {
  CODE_STEPS,
  codedRows,
  codedWeight,
  codesAndScales,
} from '../../../test/support/quantized-operands.ts';

/** What is before a product of `inputs` columns. */
interface Sources {
  readonly x: Matrix;
  readonly residual: Matrix;
  /** What gatedActivation halves. */
  readonly both: Matrix;
  readonly gain: HarnessOperand;
}

function sourcesOf(kernels: KernelSuite, rows: number, inputs: number, view = {}): Sources {
  return {
    x: matrix(rows, inputs, kernels.random(rows * inputs, 1), view),
    residual: matrix(rows, inputs, kernels.random(rows * inputs, 2)),
    both: matrix(rows, 2 * inputs, kernels.random(2 * rows * inputs, 4, 3)),
    gain: kernels.vector(inputs, 3),
  };
}

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
      const alone = { source: { ...norm, groupSize: inputs }, product: {} };
      await kernels.check('rmsNormLinear', alone, [x, gain, ...operands], [made, y]);
      const after = { source: norm, product: {} };
      const sum = matrix(rows, inputs);
      await kernels.check('addRmsNormLinear', after, [x, residual, gain, ...operands], [sum, made, y]);
      const gated = { source: { kind: 'silu' }, product: {} };
      await kernels.check('gatedActivationLinear', gated, [both, ...operands], [made, y]);
    });

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
        [2200, 4352],
      ]) {
        const format = { dtype, groupSize: size ?? inputs, hasZeros };
        const { attributes: product, operands } = codedWeight(outputs, inputs, format);
        const { x, residual, both, gain } = sourcesOf(kernels, rows, inputs);
        const bias = kernels.vector(outputs, 5);
        const source = { eps: 1e-5, weightOffset: 0 };
        const alone = { source: { ...source, groupSize: inputs }, product };
        const [sum, made, y] = [matrix(rows, inputs), matrix(rows, inputs), matrix(rows, outputs)];
        await kernels.check('rmsNormWeightOnlyLinear', alone, [x, gain, ...operands, bias], [made, y]);
        const after = [x, residual, gain, ...operands, bias];
        await kernels.check('addRmsNormWeightOnlyLinear', { source, product }, after, [sum, made, y]);
        const gated = { source: { kind: 'silu' }, product };
        await kernels.check('gatedActivationWeightOnlyLinear', gated, [both, ...operands, bias], [made, y]);
      }
    });

    it.each(['int8', 'float8_e4m3fn'] as const)('quantizedLinear of %s', async (codes) => {
      for (const [outputs, inputs] of [
        [1, 128],
        [40, 128],
        [2200, 1152],
        [33, 4224],
      ]) {
        const { attributes, operands } = codedRows(outputs, inputs, codes);
        const product = { ...attributes, xGroupSize: inputs };
        const quantize = { dtype: codes, groupSize: inputs };
        const { x, residual, both, gain } = sourcesOf(kernels, rows, inputs);
        const norm = { eps: 1e-5, weightOffset: 0, quantize };
        const made = [...codesAndScales(rows, inputs, codes), matrix(rows, outputs)];
        const step = CODE_STEPS[codes];
        const alone = { source: { ...norm, groupSize: inputs }, product };
        await kernels.check('rmsNormQuantizeQuantizedLinear', alone, [x, gain, ...operands], made, step);
        const after = [x, residual, gain, ...operands];
        const added = [matrix(rows, inputs), ...made];
        const whole = { source: norm, product };
        await kernels.check('addRmsNormQuantizeQuantizedLinear', whole, after, added, step);
        const gated = { source: { kind: 'silu', quantize }, product };
        const halved = [both, ...operands];
        await kernels.check('gatedActivationQuantizeQuantizedLinear', gated, halved, made, step);
      }
    });
  });

  it.each(ACTIVATION_KINDS)('linear after gatedActivation with %s', async (kind) => {
    const { both } = sourcesOf(kernels, 1, 64);
    const attributes = { source: { kind }, product: {} };
    const inputs = [both, kernels.weight([40, 64], 5)];
    await kernels.check('gatedActivationLinear', attributes, inputs, [matrix(1, 64), matrix(1, 40)]);
  });

  it('linear after a norm of a view that is not aligned', async () => {
    const { x, gain } = sourcesOf(kernels, 1, 128, { columnStart: 3 });
    const source = { eps: 1e-5, weightOffset: 0, groupSize: 128 };
    const inputs = [x, gain, kernels.weight([24, 128], 5)];
    const outputs = [matrix(1, 128), matrix(1, 24)];
    await kernels.check('rmsNormLinear', { source, product: {} }, inputs, outputs);
  });
});
