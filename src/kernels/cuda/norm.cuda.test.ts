// Norms against their ops' definitions, over odd shapes, views and places.
import { it } from 'vitest';
import { matrix, type Matrix } from '../../../test/support/cpu-harness.ts';
import { describeKernels } from '../../../test/support/kernel-suite.ts';

const SHAPES = [
  [3, 16],
  [2, 17],
  [1, 1025],
  [5, 104],
  [4, 2064],
  // More rows than blocks find a place for.
  [8000, 16],
] as const;

describeKernels('norms', (kernels) => {
  it.each(['rmsNorm', 'layerNorm'])('%s, whole rows and groups', async (op) => {
    const offset = op === 'rmsNorm' ? { weightOffset: 1 } : {};
    for (const [rows, columns] of [[1, 1], ...SHAPES]) {
      const x = matrix(rows, columns, kernels.random(rows * columns, 1), { columnStart: 2 });
      const bias = op === 'layerNorm' ? [kernels.vector(columns, 3)] : [];
      const inputs = [x, kernels.vector(columns, 2), ...bias];
      const attributes = { eps: 1e-5, groupSize: columns, ...offset };
      for (const y of [matrix(rows, columns), { ...x, aliasOf: x }])
        await kernels.check(op, attributes, inputs, [y]);
    }
    const x = matrix(5, 60, kernels.random(300, 1));
    const attributes = { eps: 1e-6, groupSize: 20, ...offset };
    await kernels.check(op, attributes, [x, kernels.vector(20, 2)], [matrix(5, 60)]);
  });

  it.each(['addRmsNorm', 'addLayerNorm'])('%s, in place of either operand', async (op) => {
    for (const [rows, columns] of SHAPES) {
      const x = matrix(rows, columns, kernels.random(rows * columns, 1), { columnStart: 1 });
      const residual = matrix(rows, columns, kernels.random(rows * columns, 2));
      const attributes = { eps: 1e-5, ...(op === 'addRmsNorm' ? { weightOffset: 0 } : {}) };
      const bias = op === 'addLayerNorm' ? [kernels.vector(columns, 4)] : [];
      const inputs = [x, residual, kernels.vector(columns, 3), ...bias];
      const inX: Matrix = { ...x, aliasOf: x };
      const inResidual: Matrix = { ...residual, aliasOf: residual };
      for (const outputs of [
        [matrix(rows, columns), matrix(rows, columns)],
        [inResidual, inX],
        [inX, inResidual],
      ])
        await kernels.check(op, attributes, inputs, outputs);
    }
  });
});
