// What makes codes of activations against its ops' definitions: quantize, alone and fused with what is before it.
import { describe, it } from 'vitest';
import { matrix } from '../../../test/support/cpu-harness.ts';
import { describeKernels, NO_OPERAND } from '../../../test/support/kernel-suite.ts';
import { CODE_STEPS, codesAndScales, wide } from '../../../test/support/quantized-operands.ts';

const EXACT = 1e-9;
/** Scales that are given, under which the largest values saturate. */
const SMALL_SCALES = { int8: 0.005, float8_e4m3fn: 0.001 } as const;

describeKernels('quantizing kernels', (kernels) => {
  describe.each(['int8', 'float8_e4m3fn'] as const)('to %s', (dtype) => {
    it('quantize, exactly, by token, by group and by a scale that is given', async () => {
      for (const [rows, columns, groupSize] of [
        [1, 1, 1],
        [3, 17, 17],
        [2, 4096, 4096],
        [1, 28672, 28672],
        [5, 96, 32],
        [4, 1024, 128],
        // More rows than blocks find a place for.
        [8000, 16, 16],
      ]) {
        const x = matrix(rows, columns, kernels.random(rows * columns, 3, 5), { rowStride: columns + 8 });
        const outputs = codesAndScales(rows, columns, dtype, columns / groupSize);
        const given = wide([3], Float32Array.of(0.01, 0.03, 0.02));
        for (const scale of [NO_OPERAND, given])
          await kernels.check('quantize', { dtype, groupSize }, [x, scale], outputs, EXACT);
      }
    });

    it('quantize of zeros, which have no scale', async () => {
      const zeros = matrix(2, 64, new Float32Array(128));
      const outputs = codesAndScales(2, 64, dtype);
      await kernels.check('quantize', { dtype, groupSize: 64 }, [zeros, NO_OPERAND], outputs, EXACT);
    });

    it.each([
      [1, 64],
      [5, 104],
      [3, 5120],
    ])('norms and gatedActivation of [%d, %d] fused with quantize', async (rows, columns) => {
      const quantize = { dtype, groupSize: columns };
      const x = matrix(rows, columns, kernels.random(rows * columns, 1));
      const residual = matrix(rows, columns, kernels.random(rows * columns, 2));
      const both = matrix(rows, 2 * columns, kernels.random(2 * rows * columns, 4, 3));
      const gain = kernels.vector(columns, 3);
      const norm = { eps: 1e-5, weightOffset: 0, quantize };
      const alone = { ...norm, groupSize: columns };
      const outputs = codesAndScales(rows, columns, dtype);
      const step = CODE_STEPS[dtype];
      for (const given of [NO_OPERAND, wide([1], Float32Array.of(SMALL_SCALES[dtype]))]) {
        await kernels.check('rmsNormQuantize', alone, [x, gain, given], outputs, step);
        const added = [matrix(rows, columns), ...outputs];
        await kernels.check('addRmsNormQuantize', norm, [x, residual, gain, given], added, step);
        const gated = { kind: 'silu', quantize };
        await kernels.check('gatedActivationQuantize', gated, [both, given], outputs, step);
      }
    });
  });
});
