// activation(x[:, :I]) · x[:, I:] → gatedActivation(x), the middle of a gated MLP. Matched at the product.
import type { Node, Value } from '../../ir/graph.ts';
import type { GraphIndex } from '../graph-index.ts';
import type { Fusion } from './fusion.ts';

export function fuseGatedActivation(product: Node, index: GraphIndex): Fusion | null {
  if (product.op !== 'multiply') return null;
  const [a, b] = product.inputs;
  return matchOperands(product, a, b, index) ?? matchOperands(product, b, a, index);
}

function matchOperands(product: Node, activated: Value, up: Value, index: GraphIndex): Fusion | null {
  const activation = index.producer(activated);
  if (activation?.op !== 'activation' || index.soleUser(activated) !== product) return null;
  const [gate] = activation.inputs;
  const whole = halvedBy(gate, up, index);
  if (whole === null) return null;
  const slices = [gate, up].filter((half) => index.soleUser(half)).map((half) => index.producer(half)!);
  const { label, outputs } = product;
  const { attributes } = activation;
  const fused: Node = { op: 'gatedActivation', label, inputs: [whole], outputs, attributes };
  return { replaces: [...slices, activation, product], at: product, fused };
}

/** The value of which `first` and `second` are the two halves of columns. */
function halvedBy(first: Value, second: Value, index: GraphIndex): Value | null {
  const [a, b] = [index.producer(first), index.producer(second)];
  if (a?.op !== 'slice' || b?.op !== 'slice' || a.inputs[0].id !== b.inputs[0].id) return null;
  const half = (a.inputs[0].type.shape[1] as number) / 2;
  const isFirst = a.attributes.start === 0 && a.attributes.columns === half;
  const isSecond = b.attributes.start === half && b.attributes.columns === half;
  return isFirst && isSecond ? a.inputs[0] : null;
}
