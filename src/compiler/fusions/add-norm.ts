// add + norm → addNorm: the residual stream is read and written once. Matched at the norm.
import type { Attributes, Node, Value } from '../../ir/graph.ts';
import type { GraphIndex } from '../graph-index.ts';
import type { Fusion } from './fusion.ts';

const FUSED_NAMES: Readonly<Record<string, string>> = { rmsNorm: 'addRmsNorm', layerNorm: 'addLayerNorm' };

export function fuseAddNorm(norm: Node, index: GraphIndex): Fusion | null {
  const op = FUSED_NAMES[norm.op];
  if (op === undefined) return null;
  const [sum, ...affine] = norm.inputs;
  const add = index.producer(sum);
  const { groupSize, ...attributes } = norm.attributes as Attributes & { groupSize: number };
  if (add?.op !== 'add' || groupSize !== sum.type.shape[1]) return null;
  const outputs = [sum, norm.outputs[0]];
  const fused: Node = {
    op,
    label: norm.label,
    inputs: [...newestFirst(add, index), ...affine],
    outputs,
    attributes,
  };
  // At the add, for others may read the sum before the norm does.
  return { replaces: [add, norm], at: add, fused };
}

/** The fused op calls a branch's result `x` and the stream it joins, which was there before, `residual`. */
function newestFirst(add: Node, index: GraphIndex): readonly Value[] {
  const [a, b] = add.inputs.map((input) => index.producer(input));
  const isNewer = a !== null && (b === null || index.position(a) >= index.position(b));
  return isNewer ? add.inputs : add.inputs.toReversed();
}
