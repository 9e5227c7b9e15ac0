// norm, gatedActivation, gated product or attention + quantize → one op that yields codes: what stands between is never written. Matched at
// the quantize.
import type { Node } from '../../ir/graph.ts';
import { numRequiredInputs } from '../../ir/op.ts';
import { OPS } from '../../ir/ops/index.ts';
import { quantizingName } from '../../ir/ops/quantize-fusions.ts';
import type { GraphIndex } from '../graph-index.ts';
import { opOf } from '../op-of.ts';
import type { Fusion } from './fusion.ts';

export function fuseQuantize(quantize: Node, index: GraphIndex): Fusion | null {
  if (quantize.op !== 'quantize') return null;
  const [x, ...staticScales] = quantize.inputs;
  const source = index.producer(x);
  if (!source || index.soleUser(x) !== quantize || source.outputs.at(-1)?.id !== x.id) return null;
  const op = quantizingName(source.op);
  const numRequired = numRequiredInputs(opOf(source));
  const inputs = [
    ...source.inputs.slice(0, numRequired),
    ...staticScales,
    ...source.inputs.slice(numRequired),
  ];
  if (!takes(op, numRequired + staticScales.length) || !yieldsRows(source, quantize)) return null;
  const fused: Node = {
    op,
    label: source.label,
    inputs,
    outputs: [...source.outputs.slice(0, -1), ...quantize.outputs],
    attributes: { ...source.attributes, quantize: quantize.attributes },
  };
  // Where the op was: others may read its other outputs before the quantize does.
  return { replaces: [source, quantize], at: source, fused };
}

/** Where blocks of a kernel have no whole rows, as those of a product and of attention, the scale must be known. */
function takes(op: string, numBeforeOptional: number): boolean {
  const definition = OPS.get(op);
  return definition !== undefined && numBeforeOptional >= numRequiredInputs(definition);
}

/** A row has one scale, and of a norm no groups; those of a product are its weight's. */
function yieldsRows(source: Node, quantize: Node): boolean {
  const [, columns] = quantize.inputs[0].type.shape;
  const groupSizes = [quantize, ...(opOf(source).matrixInput === null ? [source] : [])];
  return groupSizes.every(({ attributes }) => (attributes['groupSize'] ?? columns) === columns);
}
