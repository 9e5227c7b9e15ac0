// linear: x · weightᵀ + bias, the weight stored [outputs, inputs] as checkpoints do.
import { z } from 'zod';
import { dot } from '../dot.ts';
import { floatsOf, floatTensor, type HostTensor } from '../host-tensor.ts';
import { defineOp } from '../op.ts';

export const linear = defineOp({
  name: 'linear',
  inputs: ['x', 'weight', 'bias?'],
  attributes: z.strictObject({}),
  isRowwise: true,
  matrixInput: 1,
  stackedInputs: [1, 2],
  quantizedForms: { weightOnly: 'weightOnlyLinear', product: 'quantizedLinear' },

  infer(node) {
    node.check(node.matrix(0) === node.matrix(1), 'x and weight must have the same columns');
    const numOutputs = node.inputs[1].shape[0] as number;
    if (node.inputs.length > 2) node.vector(2, numOutputs);
    return [{ dtype: node.inputs[0].dtype, shape: [node.inputs[0].shape[0], numOutputs] }];
  },

  interpret([x, weight, bias]: readonly HostTensor[]) {
    const [numRows, numInputs] = x.shape;
    const numOutputs = weight.shape[0];
    const output = floatTensor([numRows, numOutputs]);
    const biases = bias && floatsOf(bias);
    for (let n = 0; n < numOutputs; n++) {
      for (let row = 0; row < numRows; row++) {
        const product = dot(floatsOf(x), row * numInputs, floatsOf(weight), n * numInputs, numInputs);
        output.data[row * numOutputs + n] = product + (biases ? biases[n] : 0);
      }
    }
    return [output];
  },
});
