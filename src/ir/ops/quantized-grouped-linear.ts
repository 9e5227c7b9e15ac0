// weightOnlyGroupedLinear and quantizedGroupedLinear: experts whose weights, or whose inputs as well, are codes.
import type { HostTensor } from '../host-tensor.ts';
import { defineOp } from '../op.ts';
import {
  groupedLinear,
  groupedLinearAttributes,
  inferGroupedLinear,
  type GroupedLinearAttributes,
} from './grouped-linear.ts';
import {
  checkCodes,
  checkWeight,
  dequantizedCodes,
  dequantizedWeight,
  productAttributes,
  weightAttributes,
} from './quantized-operands.ts';

export const weightOnlyGroupedLinear = defineOp({
  name: 'weightOnlyGroupedLinear',
  inputs: ['x', 'weight', 'scales', 'ids?', 'bias?'],
  attributes: groupedLinearAttributes.extend(weightAttributes.shape),
  isRowwise: true,
  matrixInput: 1,
  scalesInput: 2,
  groupedInputs: [1, 2, 4],

  infer(node, attributes) {
    const inputs = checkWeight(node, 1, attributes);
    const shape = inferGroupedLinear(node, attributes, {
      columns: node.matrix(0),
      inputs,
      weight: 1,
      ids: 3,
    });
    return [{ dtype: node.inputs[0].dtype, shape }];
  },

  interpret([x, weight, scales, ...idsAndBias]: readonly HostTensor[], attributes, caches) {
    const operands = [x, dequantizedWeight(weight, scales, attributes), ...idsAndBias];
    return groupedLinear.interpret(operands, groupsOf(attributes), caches);
  },
});

/** Where each expert reads columns of its own, groups of `x` lie within them: `xGroupSize` divides the weight's columns. */
export const quantizedGroupedLinear = defineOp({
  name: 'quantizedGroupedLinear',
  inputs: ['x', 'xScales', 'weight', 'scales', 'ids?', 'bias?'],
  attributes: groupedLinearAttributes.extend(productAttributes.shape),
  isRowwise: true,
  matrixInput: 2,
  scalesInput: 3,
  groupedInputs: [2, 3, 5],

  infer(node, attributes) {
    const inputs = checkWeight(node, 2, attributes);
    const columns = checkCodes(node, attributes);
    const { xGroupSize } = attributes;
    node.check(inputs % xGroupSize === 0, `xGroupSize ${xGroupSize} must divide the columns of weight`);
    const shape = inferGroupedLinear(node, attributes, { columns, inputs, weight: 2, ids: 4 });
    return [{ dtype: 'float32', shape }];
  },

  interpret([x, xScales, weight, scales, ...idsAndBias]: readonly HostTensor[], attributes, caches) {
    const operands = [
      dequantizedCodes(x, xScales, attributes),
      dequantizedWeight(weight, scales, attributes),
      ...idsAndBias,
    ];
    return groupedLinear.interpret(operands, groupsOf(attributes), caches);
  },
});

function groupsOf({ numMatrices, matricesPerToken }: GroupedLinearAttributes): GroupedLinearAttributes {
  return { numMatrices, matricesPerToken };
}
