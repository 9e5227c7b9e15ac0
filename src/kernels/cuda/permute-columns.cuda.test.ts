// permuteColumns on the GPU against its definition.
import { it } from 'vitest';
import { matrix } from '../../../test/support/cpu-harness.ts';
import { describeKernels } from '../../../test/support/kernel-suite.ts';

describeKernels('permuteColumns', (kernels) => {
  it.each([
    [1, 1],
    [3, 17],
    [1, 2063],
    [5, 96],
  ])('%i rows of %i columns, in views', async (rows, columns) => {
    const x = matrix(rows, columns, kernels.random(rows * columns, 1), { columnStart: 3 });
    const values = Float32Array.from({ length: columns }, (_, i) => (5 * i + 3) % columns);
    const order = { kind: 'weight', values, shape: [columns], dtype: 'float32', layout: 'rowMajor' } as const;
    await kernels.check('permuteColumns', {}, [x, order], [matrix(rows, columns)]);
  });
});
