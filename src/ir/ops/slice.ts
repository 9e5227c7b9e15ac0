// slice: a range of columns, seen without being copied.
import { z } from 'zod';
import { floatsOf, floatTensor } from '../host-tensor.ts';
import { defineOp } from '../op.ts';

export const slice = defineOp({
  name: 'slice',
  inputs: ['x'],
  attributes: z.strictObject({ start: z.int().nonnegative(), columns: z.int().positive() }),
  isView: true,
  isRowwise: true,

  infer(node, { start, columns }) {
    node.check(start + columns <= node.matrix(0), `columns [${start}, ${start + columns}) are not all there`);
    return [{ dtype: node.inputs[0].dtype, shape: [node.inputs[0].shape[0], columns] }];
  },

  interpret([x], { start, columns }) {
    const [numRows, stride] = x.shape;
    const output = floatTensor([numRows, columns]);
    for (let row = 0; row < numRows; row++) {
      const from = row * stride + start;
      output.data.set(floatsOf(x).subarray(from, from + columns), row * columns);
    }
    return [output];
  },
});
