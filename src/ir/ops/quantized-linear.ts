// weightOnlyLinear and quantizedLinear: x · weightᵀ + bias where the weight, or x as well, is codes with scales.
import type { HostTensor } from '../host-tensor.ts';
import { defineOp } from '../op.ts';
import { linear } from './linear.ts';
import {
  checkCodes,
  checkWeight,
  dequantizedCodes,
  dequantizedWeight,
  productAttributes,
  weightAttributes,
} from './quantized-operands.ts';

/** Floats times codes: the weight takes less memory, the product is one of floats. */
export const weightOnlyLinear = defineOp({
  name: 'weightOnlyLinear',
  inputs: ['x', 'weight', 'scales', 'bias?'],
  attributes: weightAttributes,
  isRowwise: true,
  matrixInput: 1,
  scalesInput: 2,
  stackedInputs: [1, 2, 3],

  infer(node, attributes) {
    const [x, weight] = node.inputs;
    const columns = checkWeight(node, 1, attributes);
    node.check(node.matrix(0) === columns, 'x and weight must have the same columns');
    const numOutputs = weight.shape[0] as number;
    if (node.inputs.length > 3) node.vector(3, numOutputs);
    return [{ dtype: x.dtype, shape: [x.shape[0], numOutputs] }];
  },

  interpret([x, weight, scales, bias]: readonly HostTensor[], attributes, caches) {
    const operands = [x, dequantizedWeight(weight, scales, attributes), ...(bias ? [bias] : [])];
    return linear.interpret(operands, {}, caches);
  },
});

/** Codes times codes: the product itself is one of small numbers, and scales follow it. */
export const quantizedLinear = defineOp({
  name: 'quantizedLinear',
  inputs: ['x', 'xScales', 'weight', 'scales', 'bias?'],
  attributes: productAttributes,
  isRowwise: true,
  matrixInput: 2,
  scalesInput: 3,
  stackedInputs: [2, 3, 4],

  infer(node, attributes) {
    const [x, , weight] = node.inputs;
    const columns = checkWeight(node, 2, attributes);
    node.check(checkCodes(node, attributes) === columns, 'x and weight must have the same columns');
    const numOutputs = weight.shape[0] as number;
    if (node.inputs.length > 4) node.vector(4, numOutputs);
    return [{ dtype: 'float32', shape: [x.shape[0], numOutputs] }];
  },

  interpret([x, xScales, weight, scales, bias]: readonly HostTensor[], attributes, caches) {
    const operands = [
      dequantizedCodes(x, xScales, attributes),
      dequantizedWeight(weight, scales, attributes),
      ...(bias ? [bias] : []),
    ];
    return linear.interpret(operands, {}, caches);
  },
});
