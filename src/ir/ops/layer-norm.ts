// layerNorm: (x − mean) / √(variance + eps) · weight + bias, over groups of columns; and its fusion with the residual add
// before it.
import { z } from 'zod';
import { floatsOf, floatTensor, type HostTensor } from '../host-tensor.ts';
import { defineOp } from '../op.ts';
import { add } from './elementwise.ts';

const attributes = z.strictObject({ eps: z.number() });
const groupedAttributes = attributes.extend({ groupSize: z.int().positive() });

export const layerNorm = defineOp({
  name: 'layerNorm',
  inputs: ['x', 'weight', 'bias?'],
  attributes: groupedAttributes,
  isRowwise: true,

  infer(node, { groupSize }) {
    node.check(node.matrix(0) % groupSize === 0, `columns must be a multiple of groupSize ${groupSize}`);
    // One weight for every column of a group, or groups with weights of their own.
    const numWeights = node.inputs[1].shape[0] === groupSize ? groupSize : node.matrix(0);
    node.vector(1, numWeights);
    if (node.inputs.length > 2) node.vector(2, numWeights);
    return [node.inputs[0]];
  },

  interpret([x, weight, bias]: readonly HostTensor[], { eps, groupSize }) {
    const output = floatTensor(x.shape);
    const numWeights = weight.shape[0];
    for (let start = 0; start < output.data.length; start += groupSize) {
      const group = floatsOf(x).subarray(start, start + groupSize);
      const mean = group.reduce((sum, value) => sum + value, 0) / groupSize;
      const variance = group.reduce((sum, value) => sum + (value - mean) ** 2, 0) / groupSize;
      const factor = 1 / Math.sqrt(variance + eps);
      group.forEach((value, i) => {
        const normed = (value - mean) * factor;
        const at = (start + i) % numWeights;
        output.data[start + i] = normed * floatsOf(weight)[at] + (bias ? floatsOf(bias)[at] : 0);
      });
    }
    return [output];
  },
});

export const addLayerNorm = defineOp({
  name: 'addLayerNorm',
  inputs: ['x', 'residual', 'weight', 'bias?'],
  attributes,
  isRowwise: true,
  inPlace: [
    [0, 1],
    [0, 1],
  ],

  infer(node) {
    const columns = node.matrix(0);
    node.matrix(1);
    node.sameShape(0, 1);
    node.vector(2, columns);
    if (node.inputs.length > 3) node.vector(3, columns);
    return [node.inputs[1], node.inputs[1]];
  },

  interpret([x, residual, ...affine], { eps }, caches) {
    const [sum] = add.interpret([x, residual], {}, caches);
    return [sum, ...layerNorm.interpret([sum, ...affine], { eps, groupSize: x.shape[1] }, caches)];
  },
});
