// permuteColumns: columns of activations in the order in which a weight of codes has them.
import { z } from 'zod';
import { floatsOf, floatTensor } from '../host-tensor.ts';
import { defineOp } from '../op.ts';

/** `x` `[tokens, columns]` and `order` `[columns]`, column numbers as floats → column i is column order[i] of `x`. */
export const permuteColumns = defineOp({
  name: 'permuteColumns',
  inputs: ['x', 'order'],
  attributes: z.strictObject({}),
  isRowwise: true,

  infer(node) {
    const columns = node.matrix(0);
    node.vector(1, columns);
    return [node.inputs[0]];
  },

  interpret([x, order]) {
    const [columns, values, places] = [x.shape[1], floatsOf(x), floatsOf(order)];
    const result = values.map((_, i) => values[i - (i % columns) + places[i % columns]]);
    return [floatTensor(x.shape, result)];
  },
});
