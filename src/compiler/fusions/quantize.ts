// norm or gatedActivation + quantize → one op that yields codes: what stands between is never written. Matched at the quantize.
import type { Node } from '../../ir/graph.ts';
import { quantizingName } from '../../ir/ops/quantize-fusions.ts';
import type { GraphIndex } from '../graph-index.ts';
import type { Fusion } from './fusion.ts';

export function fuseQuantize(quantize: Node, index: GraphIndex): Fusion | null {
  if (quantize.op !== 'quantize') return null;
  const [x, ...staticScales] = quantize.inputs;
  const source = index.producer(x);
  if (!source || index.soleUser(x) !== quantize || source.outputs.at(-1)?.id !== x.id) return null;
  // A block of the kernel has a whole row.
  const [, columns] = x.type.shape;
  if ([source, quantize].some(({ attributes }) => (attributes['groupSize'] ?? columns) !== columns))
    return null;
  const fused: Node = {
    op: quantizingName(source.op),
    label: source.label,
    inputs: [...source.inputs, ...staticScales],
    outputs: [...source.outputs.slice(0, -1), ...quantize.outputs],
    attributes: { ...source.attributes, quantize: quantize.attributes },
  };
  // Where the op was: others may read its other outputs before the quantize does.
  return { replaces: [source, quantize], at: source, fused };
}
