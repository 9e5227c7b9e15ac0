// Products of codes with codes fused with what quantizes before them against their ops' definitions.
import { describe, it } from 'vitest';
import { matrix } from '../../../test/support/cpu-harness.ts';
import { sourcesOf } from '../../../test/support/fed-operands.ts';
import { describeKernels } from '../../../test/support/kernel-suite.ts';
import { CODE_STEPS, codedRows, codesAndScales } from '../../../test/support/quantized-operands.ts';

describeKernels('quantized products fused with what is before them', (kernels) => {
  describe.each([1, 2])('%d rows', (rows) => {
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
        // Codes, scales and the product, which has the codes' error.
        const tolerances = [step, kernels.tolerance, Math.max(step, kernels.tolerance)];
        const alone = { source: { ...norm, groupSize: inputs }, product };
        await kernels.check(
          'rmsNormQuantizeQuantizedLinear',
          alone,
          [x, gain, ...operands],
          made,
          tolerances,
        );
        const after = [x, residual, gain, ...operands];
        const added = [matrix(rows, inputs), ...made];
        const whole = { source: norm, product };
        await kernels.check('addRmsNormQuantizeQuantizedLinear', whole, after, added, [
          kernels.tolerance,
          ...tolerances,
        ]);
        const gated = { source: { kind: 'silu', quantize }, product };
        const halved = [both, ...operands];
        await kernels.check('gatedActivationQuantizeQuantizedLinear', gated, halved, made, tolerances);
        const alike = { source: quantize, product };
        await kernels.check('quantizeQuantizedLinear', alike, [x, ...operands], made, tolerances);
      }
    });

    it.each(['int8', 'float8_e4m3fn'] as const)('gatedQuantizedLinear of %s', async (codes) => {
      for (const [outputs, inputs] of [
        [8, 128],
        [1064, 1152],
      ]) {
        const { attributes, operands } = codedRows(2 * outputs, inputs, codes);
        const product = { ...attributes, xGroupSize: inputs, kind: 'silu' };
        const source = { eps: 1e-5, weightOffset: 0, quantize: { dtype: codes, groupSize: inputs } };
        const { x, residual, gain } = sourcesOf(kernels, rows, inputs);
        const made = [...codesAndScales(rows, inputs, codes), matrix(rows, outputs)];
        const step = CODE_STEPS[codes];
        // Either half has the codes' error.
        const tolerances = [
          kernels.tolerance,
          step,
          kernels.tolerance,
          3 * Math.max(step, kernels.tolerance),
        ];
        const op = 'addRmsNormQuantizeGatedQuantizedLinear';
        const after = [x, residual, gain, ...operands];
        await kernels.check(op, { source, product }, after, [matrix(rows, inputs), ...made], tolerances);
      }
    });
  });
});
