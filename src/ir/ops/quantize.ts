// quantize: activations become codes and scales, before a product of codes.
import { z } from 'zod';
import { floatsOf, floatTensor } from '../host-tensor.ts';
import { defineOp } from '../op.ts';
import { quantizeRows, quantizeWithScale } from '../../tensor/quantize-rows.ts';

export const quantizeAttributes = z.strictObject({
  dtype: z.enum(['int8', 'float8_e4m3fn']),
  groupSize: z.int().positive(),
});

/**
 * `x` `[tokens, columns]` → codes likewise, and float32 scales `[tokens, columns / groupSize]`: each group's own, or the
 * largest of `staticScales`, which calibration found.
 */
export const quantize = defineOp({
  name: 'quantize',
  inputs: ['x', 'staticScales?'],
  attributes: quantizeAttributes,
  isRowwise: true,
  wideOutputs: [1],

  infer(node, { dtype, groupSize }) {
    const columns = node.matrix(0);
    node.check(columns % groupSize === 0, `columns must be a multiple of groupSize ${groupSize}`);
    if (node.inputs.length > 1) node.vector(1, node.inputs[1].shape[0] as number);
    const [rows] = node.inputs[0].shape;
    return [
      { dtype, shape: [rows, columns] },
      { dtype: 'float32', shape: [rows, columns / groupSize] },
    ];
  },

  interpret([x, staticScales], { dtype, groupSize }) {
    const scalesShape = [x.shape[0], x.shape[1] / groupSize];
    if (staticScales) {
      const scale = Math.max(...floatsOf(staticScales));
      const codes = quantizeWithScale(floatsOf(x), scale, dtype);
      const scales = floatTensor(scalesShape);
      scales.data.fill(scale);
      return [floatTensor(x.shape, codes), scales];
    }
    const { codes, scales } = quantizeRows(floatsOf(x), { dtype, groupSize, hasZeros: false });
    return [floatTensor(x.shape, codes), floatTensor(scalesShape, scales)];
  },
});
