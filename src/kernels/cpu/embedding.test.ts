import { describe, expect, it } from 'vitest';
import { CpuLibrary } from '../../ffi/cpu-library.ts';
import { checkLaunch, plainStep, randomValues } from '../../../test/support/check-launch.ts';
import { matrix, type HarnessOperand } from '../../../test/support/cpu-harness.ts';
import { useCpuSession } from '../../../test/support/cpu-session.ts';
import { stepBatch } from '../../../test/support/step-batch.ts';

const DTYPES = ['float32', 'bfloat16', 'float16'] as const;
const LAYOUTS = ['rowMajor', 'panel16', 'panel16x2'] as const;

describe.each(CpuLibrary.available())('%s', (arch) => {
  const cpu = useCpuSession(arch);

  const tokenIds = Int32Array.of(0, 34, 15, 16, 17, 34);
  const step = { ...plainStep(6), tokenIds };
  const ids: HarnessOperand = { kind: 'input', name: 'tokenIds' };

  it.each(LAYOUTS)('embedding from a %s table', async (layout) => {
    for (const dtype of DTYPES) {
      for (const columns of [1, 8, 33]) {
        const shape = [35, columns];
        const table: HarnessOperand = {
          kind: 'weight',
          values: randomValues(35 * columns, 1),
          shape,
          dtype,
          layout,
        };
        const outputs = [matrix(6, columns, undefined, { rowStride: columns + 2 })];
        const launch = { op: 'embedding', attributes: {}, inputs: [ids, table], outputs };
        await checkLaunch(cpu.session, launch, step, { tolerance: 0 });
      }
    }
  });

  it('refuses token ids outside of the table', async () => {
    const values = randomValues(35 * 4, 1);
    const table: HarnessOperand = {
      kind: 'weight',
      values,
      shape: [35, 4],
      dtype: 'float32',
      layout: 'rowMajor',
    };
    const launch = { op: 'embedding', attributes: {}, inputs: [ids, table], outputs: [matrix(6, 4)] };
    for (const id of [-1, 35, 2 ** 30]) {
      const wrong = { ...step, tokenIds: Int32Array.of(0, 1, 2, id, 4, 5) };
      await expect(cpu.session.run([launch], wrong)).rejects.toThrow(`tokenIds[3] is ${id}`);
    }
  });

  it('gatherRows', async () => {
    const x = matrix(9, 21, randomValues(9 * 21, 1), { columnStart: 4 });
    const blocks = [0];
    const chunk = { tokenIds: new Array<number>(9).fill(0), numCached: 0, blocks, logitRows: [0, 3, 8] };
    const launch = {
      op: 'gatherRows',
      attributes: {},
      inputs: [x, { kind: 'input', name: 'logitRows' } as const],
      outputs: [matrix(3, 21)],
      rows: 'numLogitRows' as const,
    };
    await checkLaunch(cpu.session, launch, stepBatch([chunk], 16), { tolerance: 0 });
  });
});
