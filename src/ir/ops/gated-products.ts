// Products fused with the gatedActivation that alone reads them: the first half of the outputs, activated, times the second.
import { z } from 'zod';
import type { Attributes } from '../graph.ts';
import { defineOp, type OpDefinition } from '../op.ts';
import { activationAttributes } from './activation-kinds.ts';
import { gatedActivation } from './gated-activation.ts';
import { linear } from './linear.ts';
import { quantizedLinear } from './quantized-linear.ts';

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
      return gatedActivation.interpret(
        product.interpret(inputs, own as Attributes, caches),
        { kind },
        caches,
      );
    },
  });
}

export const gatedLinear = gated(linear);
export const gatedQuantizedLinear = gated(quantizedLinear);

export const GATED_PRODUCTS = [gatedLinear, gatedQuantizedLinear];
