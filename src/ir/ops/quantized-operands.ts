// What the products of quantized operands share: their attributes, the rules of their shapes, and dequantization.
import { z } from 'zod';
import { dequantizeRows } from '../../tensor/quantize-rows.ts';
import { scaleColumns, type GroupedFormat } from '../../tensor/weight-format.ts';
import { floatsOf, floatTensor, type HostTensor } from '../host-tensor.ts';
import type { OpChecks } from '../op.ts';

/** Of a weight `[rows, columns]` of codes, whose scales are `[rows, columns / groupSize]`, with zeros twice as many. */
export const weightAttributes = z.strictObject({
  weightDType: z.enum(['int8', 'uint4', 'float8_e4m3fn']),
  groupSize: z.int().positive(),
  hasZeros: z.boolean(),
});

/** And of activations that are codes themselves, with scales `[tokens, columns / xGroupSize]`. */
export const productAttributes = weightAttributes.extend({ xGroupSize: z.int().positive() });

type WeightAttributes = z.infer<typeof weightAttributes>;
type ProductAttributes = z.infer<typeof productAttributes>;

/** Operands `weight` and `weight + 1` are codes and their scales; returns the codes' columns. */
export function checkWeight(node: OpChecks, weight: number, attributes: WeightAttributes): number {
  const columns = node.codes(weight, attributes.weightDType);
  node.check(
    columns % attributes.groupSize === 0,
    `groupSize ${attributes.groupSize} must divide the columns`,
  );
  const expected = scaleColumns(formatOf(attributes), columns);
  node.check(node.matrix(weight + 1) === expected, `the scales must have ${expected} columns`);
  node.sameRows(weight, weight + 1);
  return columns;
}

/** Operands 0 and 1 are codes and their scales; returns the codes' columns. */
export function checkCodes(node: OpChecks, { xGroupSize }: ProductAttributes): number {
  const columns = node.codes(0, node.inputs[0].dtype === 'int8' ? 'int8' : 'float8_e4m3fn');
  node.check(columns === node.matrix(1) * xGroupSize, `xScales must have one column for ${xGroupSize} of x`);
  node.sameRows(0, 1);
  return columns;
}

export function dequantizedWeight(
  weight: HostTensor,
  scales: HostTensor,
  attributes: WeightAttributes,
): HostTensor {
  return dequantized(weight, scales, formatOf(attributes));
}

export function dequantizedCodes(
  x: HostTensor,
  xScales: HostTensor,
  { xGroupSize }: ProductAttributes,
): HostTensor {
  // The type of these codes does not matter: neither has a zero of its own.
  return dequantized(x, xScales, { dtype: 'int8', groupSize: xGroupSize, hasZeros: false });
}

function formatOf({ weightDType, groupSize, hasZeros }: WeightAttributes): GroupedFormat {
  return { dtype: weightDType, groupSize, hasZeros };
}

function dequantized(codes: HostTensor, scales: HostTensor, format: GroupedFormat): HostTensor {
  return floatTensor(codes.shape, dequantizeRows(floatsOf(codes), floatsOf(scales), format));
}
