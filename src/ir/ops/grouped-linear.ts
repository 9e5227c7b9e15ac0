// groupedLinear: several linears of one shape, of which each token takes some: a layer's experts, or one for each head.
import { z } from 'zod';
import { dot } from '../dot.ts';
import { floatsOf, floatTensor, intsOf } from '../host-tensor.ts';
import type { Shape } from '../../tensor/shape.ts';
import { defineOp, type OpChecks } from '../op.ts';

export const groupedLinearAttributes = z.strictObject({
  numMatrices: z.int().positive(),
  matricesPerToken: z.int().positive(),
});

export type GroupedLinearAttributes = z.infer<typeof groupedLinearAttributes>;

/**
 * `weight` stacks `numMatrices` matrices `[outputs, inputs]`, and `bias` as many vectors. A token goes through
 * `matricesPerToken` of them, which its `ids` `[tokens, matricesPerToken]` name; without ids through all in turn. Each reads
 * columns of its own of `x` `[tokens, matricesPerToken · inputs]`, or all read `x` `[tokens, inputs]`; their results stand
 * beside each other, `[tokens, matricesPerToken · outputs]`.
 */
export const groupedLinear = defineOp({
  name: 'groupedLinear',
  inputs: ['x', 'weight', 'ids?', 'bias?'],
  attributes: groupedLinearAttributes,
  isRowwise: true,
  matrixInput: 1,
  groupedInputs: [1, 3],
  quantizedForms: { weightOnly: 'weightOnlyGroupedLinear', product: 'quantizedGroupedLinear' },

  infer(node, attributes) {
    const shape = inferGroupedLinear(node, attributes, {
      columns: node.matrix(0),
      inputs: node.matrix(1),
      weight: 1,
      ids: 2,
    });
    return [{ dtype: node.inputs[0].dtype, shape }];
  },

  interpret([x, weight, ids, bias], { numMatrices, matricesPerToken }) {
    const [numTokens, columns] = x.shape;
    const [numRows, numInputs] = weight.shape;
    const numOutputs = numRows / numMatrices;
    const output = floatTensor([numTokens, matricesPerToken * numOutputs]);
    for (let i = 0; i < numTokens * matricesPerToken; i++) {
      const [token, place] = [Math.floor(i / matricesPerToken), i % matricesPerToken];
      const firstRow = (ids ? intsOf(ids)[i] : place) * numOutputs;
      const start = token * columns + (columns === numInputs ? 0 : place * numInputs);
      for (let n = 0; n < numOutputs; n++) {
        const row = firstRow + n;
        const product = dot(floatsOf(x), start, floatsOf(weight), row * numInputs, numInputs);
        output.data[i * numOutputs + n] = product + (bias ? floatsOf(bias)[row] : 0);
      }
    }
    return [output];
  },
});

/** Columns of x and of each matrix, and which operands are weight and ids; a bias may follow the ids. */
interface GroupedOperands {
  readonly columns: number;
  readonly inputs: number;
  readonly weight: number;
  readonly ids: number;
}

/** The shape of the result. */
export function inferGroupedLinear(
  node: OpChecks,
  { numMatrices, matricesPerToken }: GroupedLinearAttributes,
  { columns, inputs, weight, ids }: GroupedOperands,
): Shape {
  const numRows = node.inputs[weight].shape[0] as number;
  node.check(
    numRows % numMatrices === 0,
    `the rows of weight must be a multiple of numMatrices ${numMatrices}`,
  );
  const idsType = node.inputs[ids];
  if (idsType) node.ints(ids);
  if (idsType) node.sameRows(0, ids);
  node.check(
    matricesPerToken === (idsType?.shape[1] ?? numMatrices),
    `ids do not name ${matricesPerToken} matrices`,
  );
  const fits = columns === inputs || columns === matricesPerToken * inputs;
  node.check(fits, `x must have the columns of weight, once or ${matricesPerToken} times`);
  if (node.inputs.length > ids + 1) node.vector(ids + 1, numRows);
  return [node.inputs[0].shape[0], (matricesPerToken * numRows) / numMatrices];
}
