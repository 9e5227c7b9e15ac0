import { describe, it } from 'vitest';
import { CpuLibrary } from '../../ffi/cpu-library.ts';
import { checkLaunch, plainStep, randomValues } from '../../../test/support/check-launch.ts';
import { matrix } from '../../../test/support/cpu-harness.ts';
import { useCpuSession } from '../../../test/support/cpu-session.ts';

describe.each(CpuLibrary.available())('permuteColumns on %s', (arch) => {
  const cpu = useCpuSession(arch);

  it.each([
    [1, 1],
    [3, 17],
    [1, 2063],
    [5, 96],
  ])('%i rows of %i columns, in views', async (rows, columns) => {
    const x = matrix(rows, columns, randomValues(rows * columns, 1), { columnStart: 3 });
    const values = Float32Array.from({ length: columns }, (_, i) => (5 * i + 3) % columns);
    const order = { kind: 'weight', values, shape: [columns], dtype: 'float32', layout: 'rowMajor' } as const;
    const y = matrix(rows, columns, undefined, { rowStride: columns + 7 });
    const launch = { op: 'permuteColumns', attributes: {}, inputs: [x, order], outputs: [y] };
    await checkLaunch(cpu.session, launch, plainStep(rows));
  });
});
