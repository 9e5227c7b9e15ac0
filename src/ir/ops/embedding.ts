// embedding: one row of a table per token id.
import { z } from 'zod';
import { floatsOf, floatTensor, intsOf } from '../host-tensor.ts';
import { defineOp } from '../op.ts';

export const embedding = defineOp({
  name: 'embedding',
  inputs: ['ids', 'table'],
  attributes: z.strictObject({}),
  matrixInput: 1,

  infer(node) {
    node.ints(0);
    return [{ dtype: 'float32', shape: [node.inputs[0].shape[0], node.matrix(1)] }];
  },

  interpret([ids, table]) {
    const [numRows, columns] = table.shape;
    const output = floatTensor([ids.shape[0], columns]);
    intsOf(ids).forEach((id, token) => {
      if (id < 0 || id >= numRows)
        throw new RangeError(`token id ${id} is outside of the table's ${numRows} rows`);
      output.data.set(floatsOf(table).subarray(id * columns, (id + 1) * columns), token * columns);
    });
    return [output];
  },
});
