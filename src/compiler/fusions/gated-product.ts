// product + the gatedActivation that alone reads it → one op: what is wider than its result is never written. Matched at the
// gatedActivation.
import type { Node } from '../../ir/graph.ts';
import { gatedName } from '../../ir/ops/gated-products.ts';
import type { GraphIndex } from '../graph-index.ts';
import { opOf } from '../op-of.ts';
import type { Fusion } from './fusion.ts';

export function fuseGatedProduct(activation: Node, index: GraphIndex): Fusion | null {
  if (activation.op !== 'gatedActivation') return null;
  const [whole] = activation.inputs;
  const product = index.producer(whole);
  if (!product || opOf(product).matrixInput === null || index.soleUser(whole) !== activation) return null;
  const source = index.producer(product.inputs[0]);
  // Kernels want x at a place that is aligned.
  if (source && opOf(source).isView) return null;
  const fused: Node = {
    ...product,
    op: gatedName(product.op),
    outputs: activation.outputs,
    attributes: { ...product.attributes, ...activation.attributes },
  };
  return { replaces: [product, activation], at: activation, fused };
}
