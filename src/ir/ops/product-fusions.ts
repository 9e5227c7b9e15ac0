// Products fused with the op that makes what they alone multiply: a norm or a gated activation, which may quantize, or a quantize.
import { z } from 'zod';
import type { Attributes } from '../graph.ts';
import { defineOp, type OpDefinition } from '../op.ts';
import { gatedActivation } from './gated-activation.ts';
import { gatedLinear, gatedQuantizedLinear, gatedWeightOnlyLinear } from './gated-products.ts';
import { linear } from './linear.ts';
import { quantize } from './quantize.ts';
import { addRmsNormQuantize, gatedActivationQuantize, rmsNormQuantize } from './quantize-fusions.ts';
import { quantizedLinear, weightOnlyLinear } from './quantized-linear.ts';
import { addRmsNorm, rmsNorm } from './rms-norm.ts';

/** Those of either, apart. */
const attributes = z.strictObject({ source: z.looseObject({}), product: z.looseObject({}) });

/** An op and the product that it is fused with. */
export interface FedProduct {
  readonly op: OpDefinition;
  readonly source: OpDefinition;
  readonly product: OpDefinition;
}

/** The name of the fusion of two ops that have one. */
export function feedingName(source: string, product: string): string {
  return source + product[0].toUpperCase() + product.slice(1);
}

/** Operands of the source without those that may be left out, which it must not have; then those of the product but x. */
function feeding(source: OpDefinition, product: OpDefinition): FedProduct {
  const sourceInputs = source.inputs.filter((name) => !name.endsWith('?'));
  const numMade = numOperandsMade(product);
  const placeOf = (input: number | null): number | null =>
    input === null ? null : input - numMade + sourceInputs.length;
  const op = defineOp({
    name: feedingName(source.name, product.name),
    inputs: [...sourceInputs, ...product.inputs.slice(numMade)],
    attributes,
    isRowwise: true,
    matrixInput: placeOf(product.matrixInput),
    scalesInput: placeOf(product.scalesInput),
    wideOutputs: source.wideOutputs,

    infer(node, own) {
      const operands = sourceInputs.map((_, i) => i);
      const made = node.inferAs(source, operands, own.source as Attributes);
      const rest = node.inputs.slice(sourceInputs.length);
      const y = product.infer({
        label: node.label,
        inputs: [...made.slice(-numMade), ...rest],
        attributes: own.product as Attributes,
      });
      return [...made, ...y];
    },

    interpret(inputs, own, caches) {
      const operands = inputs.slice(0, sourceInputs.length);
      const made = source.interpret(operands, own.source as Attributes, caches);
      const rest = inputs.slice(sourceInputs.length);
      const y = product.interpret([...made.slice(-numMade), ...rest], own.product as Attributes, caches);
      return [...made, ...y];
    },
  });
  return { op, source, product };
}

/** x, and its scales if it is of codes: what stands before the weight. */
export function numOperandsMade({ matrixInput }: OpDefinition): number {
  return matrixInput!;
}

export const FED_PRODUCTS: readonly FedProduct[] = [
  ...[rmsNorm, addRmsNorm, gatedActivation].flatMap((source) => [
    feeding(source, linear),
    feeding(source, weightOnlyLinear),
  ]),
  ...[rmsNormQuantize, addRmsNormQuantize, gatedActivationQuantize].map((source) =>
    feeding(source, quantizedLinear),
  ),
  feeding(quantize, quantizedLinear),
  ...[rmsNorm, addRmsNorm].flatMap((source) => [
    feeding(source, gatedLinear),
    feeding(source, gatedWeightOnlyLinear),
  ]),
  ...[rmsNormQuantize, addRmsNormQuantize].map((source) => feeding(source, gatedQuantizedLinear)),
];
