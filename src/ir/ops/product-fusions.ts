// Products fused with the op that makes what they alone multiply: a norm or a gated activation, which may quantize, or a quantize.
import { z } from 'zod';
import type { Attributes } from '../graph.ts';
import { defineOp, numRequiredInputs, type OpDefinition } from '../op.ts';
import { gatedActivation } from './gated-activation.ts';
import {
  gatedLinear,
  gatedQuantizedLinear,
  gatedQuantizedLinearQuantize,
  gatedWeightOnlyLinear,
} from './gated-products.ts';
import { linear } from './linear.ts';
import { quantize } from './quantize.ts';
import { addRmsNormQuantize, gatedActivationQuantize, rmsNormQuantize } from './quantize-fusions.ts';
import { quantizedLinear, weightOnlyLinear } from './quantized-linear.ts';
import { addRmsNorm, rmsNorm } from './rms-norm.ts';

/** Those of either, apart, and how many operands of the source that may be left out there are: they come last. */
const attributes = z.strictObject({
  source: z.looseObject({}),
  product: z.looseObject({}),
  numOptional: z.int().nonnegative(),
});

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

/** Operands that the source must have, those of the product but x, then those of the source that may be left out. */
function feeding(source: OpDefinition, product: OpDefinition): FedProduct {
  const numRequired = numRequiredInputs(source);
  const numMade = numOperandsMade(product);
  const placeOf = (input: number | null): number | null =>
    input === null ? null : input - numMade + numRequired;
  const ofSource = <T>(operands: readonly T[], numOptional: number): readonly T[] => [
    ...operands.slice(0, numRequired),
    ...operands.slice(operands.length - numOptional),
  ];
  const ofProduct = <T>(made: readonly T[], operands: readonly T[], numOptional: number): readonly T[] => [
    ...made.slice(-numMade),
    ...operands.slice(numRequired, operands.length - numOptional),
  ];
  const op = defineOp({
    name: feedingName(source.name, product.name),
    inputs: [
      ...source.inputs.slice(0, numRequired),
      ...product.inputs.slice(numMade),
      ...source.inputs.slice(numRequired),
    ],
    attributes,
    isRowwise: true,
    matrixInput: placeOf(product.matrixInput),
    scalesInput: placeOf(product.scalesInput),
    // The source's scales are the last that it makes.
    wideOutputs: [
      ...source.wideOutputs,
      ...product.wideOutputs.map((output) => source.wideOutputs.at(-1)! + 1 + output),
    ],

    infer(node, own) {
      const operands = node.inputs.map((_, i) => i);
      const made = node.inferAs(source, ofSource(operands, own.numOptional), own.source as Attributes);
      const y = product.infer({
        label: node.label,
        inputs: ofProduct(made, node.inputs, own.numOptional),
        attributes: own.product as Attributes,
      });
      return [...made, ...y];
    },

    interpret(inputs, own, caches) {
      const { numOptional } = own;
      const made = source.interpret(ofSource(inputs, numOptional), own.source as Attributes, caches);
      const operands = ofProduct(made, inputs, numOptional);
      return [...made, ...product.interpret(operands, own.product as Attributes, caches)];
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
  ...[rmsNormQuantize, addRmsNormQuantize].flatMap((source) => [
    feeding(source, gatedQuantizedLinear),
    feeding(source, gatedQuantizedLinearQuantize),
  ]),
];
