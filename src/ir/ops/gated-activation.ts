// gatedActivation (fused): the activated first half of the columns times the second half.
import { floatsOf, floatTensor } from '../host-tensor.ts';
import { defineOp } from '../op.ts';
import { ACTIVATIONS, activationAttributes } from './activation-kinds.ts';

export const gatedActivation = defineOp({
  name: 'gatedActivation',
  inputs: ['x'],
  attributes: activationAttributes,
  isRowwise: true,

  infer(node) {
    const columns = node.matrix(0);
    node.check(columns % 2 === 0, 'x must have an even number of columns');
    return [{ dtype: node.inputs[0].dtype, shape: [node.inputs[0].shape[0], columns / 2] }];
  },

  interpret([x], { kind }) {
    const [numRows, columns] = x.shape;
    const half = columns / 2;
    const output = floatTensor([numRows, half]);
    for (let row = 0; row < numRows; row++) {
      for (let i = 0; i < half; i++) {
        const gate = floatsOf(x)[row * columns + i];
        const up = floatsOf(x)[row * columns + half + i];
        output.data[row * half + i] = ACTIVATIONS[kind](gate) * up;
      }
    }
    return [output];
  },
});
