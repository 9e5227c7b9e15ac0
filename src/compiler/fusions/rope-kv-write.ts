// rope(q) + rope(k) + kvWrite → ropeKvWrite: keys go to the cache as they turn. Matched at the kvWrite.
import { isDeepStrictEqual } from 'node:util';
import type { Attributes, Node } from '../../ir/graph.ts';
import type { GraphIndex } from '../graph-index.ts';
import type { Fusion } from './fusion.ts';

export function fuseRopeKvWrite(write: Node, index: GraphIndex): Fusion | null {
  if (write.op !== 'kvWrite') return null;
  const [turnedKeys, values, slotMapping] = write.inputs;
  const [token] = write.outputs;
  const keyRope = index.producer(turnedKeys);
  const attention = index.soleUser(token);
  const [turnedQueries] = attention?.inputs ?? [];
  const queryRope = attention && index.producer(turnedQueries);
  if (keyRope?.op !== 'rope' || queryRope?.op !== 'rope' || !turnAlike(queryRope, keyRope)) return null;
  if (index.soleUser(turnedKeys) !== write || index.soleUser(turnedQueries) !== attention) return null;
  const [queries, positions] = queryRope.inputs;
  const fused: Node = {
    op: 'ropeKvWrite',
    label: write.label,
    inputs: [queries, keyRope.inputs[0], values, positions, slotMapping],
    outputs: [turnedQueries, token],
    attributes: fusedAttributes(attention!.attributes, keyRope.attributes),
  };
  // Queries may turn after the write; nothing but the attention waits for either.
  const at = index.position(queryRope) > index.position(write) ? queryRope : write;
  return { replaces: [queryRope, keyRope, write], at, fused };
}

/** Same angles at the same positions. */
function turnAlike(a: Node, b: Node): boolean {
  return a.inputs[1].id === b.inputs[1].id && isDeepStrictEqual(a.attributes, b.attributes);
}

function fusedAttributes(attention: Attributes, { rope }: Attributes): Attributes {
  const { layer, numHeads, numKvHeads, headDim, valueHeadDim } = attention;
  return { layer, numHeads, numKvHeads, headDim, valueHeadDim, rope };
}
