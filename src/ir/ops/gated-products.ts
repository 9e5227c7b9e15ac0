// Products fused with the gatedActivation that alone reads them: the first half of the outputs, activated, times the second. Of
// grouped products, that of each matrix.
import { z } from 'zod';
import type { Attributes } from '../graph.ts';
import { defineOp, type OpDefinition } from '../op.ts';
import { activationAttributes } from './activation-kinds.ts';
import { gatedActivation } from './gated-activation.ts';
import { groupedLinear } from './grouped-linear.ts';
import { linear } from './linear.ts';
import { quantizing } from './quantize-fusions.ts';
import { quantizedGroupedLinear, weightOnlyGroupedLinear } from './quantized-grouped-linear.ts';
import { quantizedLinear, weightOnlyLinear } from './quantized-linear.ts';

/** The activation's `kind` beside the product's own attributes. */
const attributes = z.looseObject(activationAttributes.shape);

/** The name of the fusion of a product that has one. */
export function gatedName(product: string): string {
  return `gated${product[0].toUpperCase()}${product.slice(1)}`;
}

function gated(product: OpDefinition): OpDefinition {
  return defineOp({
    name: gatedName(product.name),
    inputs: product.inputs,
    attributes,
    isRowwise: true,
    matrixInput: product.matrixInput,
    scalesInput: product.scalesInput,

    infer(node, { kind, ...own }) {
      const operands = node.inputs.map((_, i) => i);
      const [whole] = node.inferAs(product, operands, own as Attributes);
      return gatedActivation.infer({ label: '', inputs: [whole], attributes: { kind } });
    },

    interpret(inputs, { kind, ...own }, caches) {
      const [whole] = product.interpret(inputs, own as Attributes, caches);
      const [numRows, columns] = whole.shape;
      const numMatrices = Number(own['matricesPerToken'] ?? 1);
      const apart = { ...whole, shape: [numRows * numMatrices, columns / numMatrices] };
      const [result] = gatedActivation.interpret([apart], { kind }, caches);
      return [{ ...result, shape: [numRows, columns / 2] }];
    },
  });
}

export const gatedLinear = gated(linear);
export const gatedWeightOnlyLinear = gated(weightOnlyLinear);
export const gatedQuantizedLinear = gated(quantizedLinear);

/** And with the quantize that alone reads that, under scales known beforehand. */
export const gatedQuantizedLinearQuantize = quantizing(gatedQuantizedLinear);

export const gatedGroupedLinear = gated(groupedLinear);
export const gatedWeightOnlyGroupedLinear = gated(weightOnlyGroupedLinear);
export const gatedQuantizedGroupedLinear = gated(quantizedGroupedLinear);

export const GATED_PRODUCTS = [
  gatedLinear,
  gatedWeightOnlyLinear,
  gatedQuantizedLinear,
  gatedQuantizedLinearQuantize,
  gatedGroupedLinear,
  gatedWeightOnlyGroupedLinear,
  gatedQuantizedGroupedLinear,
];
