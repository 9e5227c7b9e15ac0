// norm, gatedActivation or quantize + the product that alone reads what it makes → one op: a product of few rows makes them itself, instead
// of waiting for another launch. Matched at the product.
import type { Node } from '../../ir/graph.ts';
import { numRequiredInputs } from '../../ir/op.ts';
import { feedingName, numOperandsMade } from '../../ir/ops/product-fusions.ts';
import type { GraphIndex } from '../graph-index.ts';
import { opOf } from '../op-of.ts';
import type { Fusion } from './fusion.ts';

export function fuseProduct(product: Node, index: GraphIndex): Fusion | null {
  if (opOf(product).matrixInput === null) return null;
  const numMade = numOperandsMade(opOf(product));
  const made = product.inputs.slice(0, numMade);
  const source = index.producer(made[0]);
  if (!source || !makes(source, made) || !made.every((value) => index.soleUser(value) === product))
    return null;
  // A block of the kernel has a whole row.
  const columns = made[0].type.shape[1];
  if ((source.attributes['groupSize'] ?? columns) !== columns) return null;
  const numRequired = numRequiredInputs(opOf(source));
  const fused: Node = {
    op: feedingName(source.op, product.op),
    label: product.label,
    inputs: [
      ...source.inputs.slice(0, numRequired),
      ...product.inputs.slice(numMade),
      ...source.inputs.slice(numRequired),
    ],
    outputs: [...source.outputs, ...product.outputs],
    attributes: {
      source: source.attributes,
      product: product.attributes,
      numOptional: source.inputs.length - numRequired,
    },
  };
  // Where the source was: others may read its other outputs before the product does.
  return { replaces: [source, product], at: source, fused };
}

/** As its last outputs. */
function makes(source: Node, values: Node['inputs']): boolean {
  const last = source.outputs.slice(-values.length);
  return values.every((value, i) => value.id === last[i]?.id);
}
