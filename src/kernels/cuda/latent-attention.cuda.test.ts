// Attention over latents against its definition, over caches of numbers and of codes.
import { describe, it } from 'vitest';
import { batchOperands, filledCache, stepOf } from '../../../test/support/attention-suite.ts';
import { matrix } from '../../../test/support/cpu-harness.ts';
import { describeKernels } from '../../../test/support/kernel-suite.ts';

const CONTEXT_LENS = [1, 40, 64, 65, 700, 130, 16];
const NUM_QUERIES = [
  [1, 1, 1, 1, 1, 1, 1],
  [1, 7, 17, 1, 1, 100, 2],
];

describeKernels('latentAttention', (kernels) => {
  describe.each([kernels.dtype, 'float8_e4m3fn', 'int8'] as const)('over caches of %s', (kvDType) => {
    it.each([
      [16, 64, 512],
      [3, 64, 128],
      [80, 64, 256],
      [5, 24, 40],
    ])('%d heads of %d and %d', async (numHeads, headDim, valueHeadDim) => {
      const attributes = { layer: 0, scale: 0.1, numHeads, numKvHeads: 1, headDim, valueHeadDim };
      const dims = { numKvHeads: 1, keyHeadDim: headDim, valueHeadDim };
      const { cache, blocks } = filledCache(kernels, dims, CONTEXT_LENS, kvDType);
      for (const numQueries of NUM_QUERIES) {
        const step = stepOf(CONTEXT_LENS, numQueries, blocks);
        const [q, latentQ] = [headDim, valueHeadDim].map((dim, i) =>
          matrix(step.numTokens, numHeads * dim, kernels.random(step.numTokens * numHeads * dim, 3 + i)),
        );
        const inputs = [q, ...batchOperands(), latentQ];
        const outputs = [matrix(step.numTokens, numHeads * valueHeadDim)];
        await kernels.checkCase({
          step,
          cache,
          launch: { op: 'latentAttention', attributes, inputs, outputs },
        });
      }
    });
  });
});
