// groupedLinear: several linears of one shape, of which each token takes some: a layer's experts, or one for each head.
import { z } from 'zod';
import { dot } from '../dot.ts';
import { floatsOf, floatTensor, intsOf } from '../host-tensor.ts';
import { defineOp } from '../op.ts';

/**
 * `weight` stacks `numGroups` matrices `[outputs, inputs]`, and `bias` as many vectors. A token fills `numSlots` slots:
 * one for each of its `ids` `[tokens, slots]`, or without ids one for each matrix in turn. A slot reads its own columns of
 * `x` `[tokens, slots · inputs]`, or all of `x` `[tokens, inputs]`; its result has columns of its own in the output.
 */
export const groupedLinear = defineOp({
  name: 'groupedLinear',
  inputs: ['x', 'weight', 'ids?', 'bias?'],
  attributes: z.strictObject({ numGroups: z.int().positive(), numSlots: z.int().positive() }),
  isRowwise: true,
  matrixInput: 1,

  infer(node, { numGroups, numSlots }) {
    const [x, weight, ids] = node.inputs;
    const [columns, inputs] = [node.matrix(0), node.matrix(1)];
    const numRows = weight.shape[0] as number;
    node.check(numRows % numGroups === 0, `the rows of weight must be a multiple of numGroups ${numGroups}`);
    if (ids) node.ints(2);
    if (ids) node.sameRows(0, 2);
    node.check(numSlots === (ids?.shape[1] ?? numGroups), `${numSlots} is not the number of slots`);
    const fits = columns === inputs || columns === numSlots * inputs;
    node.check(fits, `x must have the columns of weight, once or for each of ${numSlots} slots`);
    if (node.inputs.length > 3) node.vector(3, numRows);
    return [{ dtype: x.dtype, shape: [x.shape[0], (numSlots * numRows) / numGroups] }];
  },

  interpret([x, weight, ids, bias], { numGroups, numSlots }) {
    const [numTokens, columns] = x.shape;
    const [numRows, numInputs] = weight.shape;
    const numOutputs = numRows / numGroups;
    const output = floatTensor([numTokens, numSlots * numOutputs]);
    for (let i = 0; i < numTokens * numSlots; i++) {
      const [token, slot] = [Math.floor(i / numSlots), i % numSlots];
      const firstRow = (ids ? intsOf(ids)[i] : slot) * numOutputs;
      const start = token * columns + (columns === numInputs ? 0 : slot * numInputs);
      for (let n = 0; n < numOutputs; n++) {
        const row = firstRow + n;
        const product = dot(floatsOf(x), start, floatsOf(weight), row * numInputs, numInputs);
        output.data[i * numOutputs + n] = product + (bias ? floatsOf(bias)[row] : 0);
      }
    }
    return [output];
  },
});
