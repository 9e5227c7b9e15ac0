// Rows copied as a step's arrays name them, bit for bit.
import { it } from 'vitest';
import { plainStep } from '../../../test/support/check-launch.ts';
import { matrix } from '../../../test/support/cpu-harness.ts';
import { describeKernels } from '../../../test/support/kernel-suite.ts';
import { stepBatch } from '../../../test/support/step-batch.ts';

describeKernels('rows', (kernels) => {
  it.each([1, 8, 33, 2048, 5000])('embedding of %d columns', async (columns) => {
    const step = { ...plainStep(6), tokenIds: Int32Array.of(0, 34, 15, 16, 17, 34) };
    const inputs = [{ kind: 'input', name: 'tokenIds' } as const, kernels.weight([35, columns], 1)];
    for (const rowStride of [columns, columns + 3]) {
      const outputs = [matrix(6, columns, undefined, { rowStride })];
      await kernels.checkCase({ step, launch: { op: 'embedding', attributes: {}, inputs, outputs } }, 0);
    }
  });

  it.each([21, 256])('gatherRows of %d columns', async (columns) => {
    const tokenIds = new Array<number>(9).fill(0);
    const step = stepBatch([{ tokenIds, numCached: 0, blocks: [0], logitRows: [0, 3, 8] }], 16);
    const x = matrix(9, columns, kernels.random(9 * columns, 1), { columnStart: columns % 2 });
    const inputs = [x, { kind: 'input', name: 'logitRows' } as const];
    const outputs = [matrix(3, columns)];
    const launch = { op: 'gatherRows', attributes: {}, inputs, outputs, rows: 'numLogitRows' } as const;
    await kernels.checkCase({ step, launch }, 0);
  });
});
