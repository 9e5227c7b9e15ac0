// Keys and values written to a cache, bit for bit, in every type of cache.
import { it } from 'vitest';
import { filledCache } from '../../../test/support/attention-suite.ts';
import { matrix, type HarnessOperand } from '../../../test/support/cpu-harness.ts';
import { describeKernels } from '../../../test/support/kernel-suite.ts';
import { stepBatch } from '../../../test/support/step-batch.ts';

describeKernels('kvWrite', (kernels) => {
  it.each([kernels.dtype, 'float8_e4m3fn', 'int8'] as const)('to a cache of %s', async (kvDType) => {
    for (const [numKvHeads, keyHeadDim, valueHeadDim] of [
      [1, 1, 3],
      [3, 37, 21],
      [2, 64, 64],
      [5, 80, 48],
      [3, 96, 112],
      [1, 64, 512],
      [8, 128, 128],
    ]) {
      const dims = { numKvHeads, keyHeadDim, valueHeadDim };
      const { cache, blocks } = filledCache(kernels, dims, [40, 3], kvDType);
      const chunks = [
        { tokenIds: new Array<number>(7).fill(0), numCached: 30, blocks: blocks[0], logitRows: [] },
        { tokenIds: [0], numCached: 3, blocks: blocks[1], logitRows: [] },
      ];
      const step = stepBatch(chunks, 16);
      const rows = [keyHeadDim, valueHeadDim].map((dim, i) => {
        const values = kernels.random(step.numTokens * numKvHeads * dim, 4 + i, 2);
        // A head of nothing but zeros, which has no scale.
        values.fill(0, 0, dim);
        return matrix(step.numTokens, numKvHeads * dim, values, { rowStride: numKvHeads * dim + 8 * i });
      });
      const inputs: HarnessOperand[] = [...rows, { kind: 'input', name: 'slotMapping' }];
      const outputs: HarnessOperand[] = [{ kind: 'kvCache', layer: 0 }];
      const launch = { op: 'kvWrite', attributes: { layer: 0 }, inputs, outputs };
      await kernels.checkCase({ step, cache, launch }, 0);
    }
  });
});
