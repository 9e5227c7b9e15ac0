// rmsNorm: x / √(mean x² + eps) · weight, over groups of columns; and its fusion with the residual add before it.
import { z } from 'zod';
import { floatsOf, floatTensor } from '../host-tensor.ts';
import { defineOp } from '../op.ts';
import { add } from './elementwise.ts';

/** `weightOffset` is added to the weight: 1 where checkpoints store its distance from 1 (Gemma). */
const attributes = z.strictObject({ eps: z.number(), weightOffset: z.number() });
const groupedAttributes = attributes.extend({ groupSize: z.int().positive() });

export const rmsNorm = defineOp({
  name: 'rmsNorm',
  inputs: ['x', 'weight'],
  attributes: groupedAttributes,
  isRowwise: true,

  infer(node, { groupSize }) {
    node.check(node.matrix(0) % groupSize === 0, `columns must be a multiple of groupSize ${groupSize}`);
    node.vector(1, groupSize);
    return [node.inputs[0]];
  },

  interpret([x, weight], { eps, groupSize, weightOffset }) {
    const [values, weights] = [floatsOf(x), floatsOf(weight)];
    const output = floatTensor(x.shape);
    for (let start = 0; start < values.length; start += groupSize) {
      let sumOfSquares = 0;
      for (let i = 0; i < groupSize; i++) sumOfSquares += values[start + i] ** 2;
      const factor = 1 / Math.sqrt(sumOfSquares / groupSize + eps);
      for (let i = 0; i < groupSize; i++) {
        output.data[start + i] = values[start + i] * factor * (weights[i] + weightOffset);
      }
    }
    return [output];
  },
});

export const addRmsNorm = defineOp({
  name: 'addRmsNorm',
  inputs: ['x', 'residual', 'weight'],
  attributes,
  isRowwise: true,
  inPlace: [
    [0, 1],
    [0, 1],
  ],

  infer(node) {
    node.vector(2, node.matrix(0));
    node.matrix(1);
    node.sameShape(0, 1);
    return [node.inputs[1], node.inputs[1]];
  },

  interpret([x, residual, weight], { eps, weightOffset }, caches) {
    const [sum] = add.interpret([x, residual], {}, caches);
    const normAttributes = { eps, weightOffset, groupSize: x.shape[1] };
    return [sum, ...rmsNorm.interpret([sum, weight], normAttributes, caches)];
  },
});
