// combineExperts: the weighted sum of what a token's experts answered.
import { z } from 'zod';
import { floatsOf, floatTensor } from '../host-tensor.ts';
import { defineOp } from '../op.ts';

/** `x` `[tokens, experts · columns]`, `weights` `[tokens, experts]` → `[tokens, columns]`. */
export const combineExperts = defineOp({
  name: 'combineExperts',
  inputs: ['x', 'weights'],
  attributes: z.strictObject({}),
  isRowwise: true,

  infer(node) {
    const [columns, numExperts] = [node.matrix(0), node.matrix(1)];
    node.sameRows(0, 1);
    node.check(columns % numExperts === 0, `the columns of x must be a multiple of ${numExperts} experts`);
    return [{ dtype: node.inputs[0].dtype, shape: [node.inputs[0].shape[0], columns / numExperts] }];
  },

  interpret([x, weights]) {
    const [numTokens, numExperts] = weights.shape;
    const columns = x.shape[1] / numExperts;
    const output = floatTensor([numTokens, columns]);
    floatsOf(weights).forEach((weight, i) => {
      const start = Math.floor(i / numExperts) * columns;
      for (let c = 0; c < columns; c++) output.data[start + c] += weight * floatsOf(x)[i * columns + c];
    });
    return [output];
  },
});
