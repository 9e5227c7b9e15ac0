// gatherRows: the rows whose logits are wanted.
import { z } from 'zod';
import { floatsOf, floatTensor, intsOf } from '../host-tensor.ts';
import { defineOp } from '../op.ts';

export const gatherRows = defineOp({
  name: 'gatherRows',
  inputs: ['x', 'rows'],
  attributes: z.strictObject({}),

  infer(node) {
    node.ints(1);
    return [{ dtype: node.inputs[0].dtype, shape: [node.inputs[1].shape[0], node.matrix(0)] }];
  },

  interpret([x, rows]) {
    const columns = x.shape[1];
    const output = floatTensor([rows.shape[0], columns]);
    intsOf(rows).forEach((row, i) => {
      output.data.set(floatsOf(x).subarray(row * columns, (row + 1) * columns), i * columns);
    });
    return [output];
  },
});
