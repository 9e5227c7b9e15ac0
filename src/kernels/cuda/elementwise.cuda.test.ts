// Elementwise kernels against their ops' definitions, over odd shapes, views and places.
import { it } from 'vitest';
import { ACTIVATION_KINDS } from '../../ir/ops/activation-kinds.ts';
import { matrix } from '../../../test/support/cpu-harness.ts';
import { describeKernels } from '../../../test/support/kernel-suite.ts';

const SHAPES = [
  [1, 1],
  [3, 16],
  [2, 17],
  [1, 1025],
  [5, 104],
  [4, 2064],
] as const;

describeKernels('elementwise kernels', (kernels) => {
  it.each(['add', 'multiply'])('%s, on views, in place and apart', async (op) => {
    for (const [rows, columns] of SHAPES) {
      const view = { columnStart: 3, rowStride: columns + 5 };
      const a = matrix(rows, columns, kernels.random(rows * columns, 1), view);
      const b = matrix(rows, columns, kernels.random(rows * columns, 2));
      for (const y of [matrix(rows, columns), { ...a, aliasOf: a }, { ...b, aliasOf: b }])
        await kernels.check(op, {}, [a, b], [y]);
    }
  });

  it.each([
    ['scale', { factor: -1.75 }],
    ['clamp', { min: -1.5, max: 1 }],
    ['clamp', { min: null, max: 2 }],
    ['softcap', { cap: 2.5 }],
    ...ACTIVATION_KINDS.map((kind) => ['activation', { kind }] as const),
  ] as const)('%s %j', async (op, attributes) => {
    for (const [rows, columns] of SHAPES) {
      const x = matrix(rows, columns, kernels.random(rows * columns, 3, 8), { rowStride: columns + 1 });
      for (const y of [matrix(rows, columns), { ...x, aliasOf: x }])
        await kernels.check(op, attributes, [x], [y]);
    }
  });

  it.each(ACTIVATION_KINDS)('gatedActivation with %s', async (kind) => {
    for (const [rows, columns] of SHAPES) {
      const x = matrix(rows, 2 * columns, kernels.random(rows * 2 * columns, 4, 6));
      await kernels.check('gatedActivation', { kind }, [x], [matrix(rows, columns)]);
    }
  });
});
