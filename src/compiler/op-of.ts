// The definition of a node's op: what passes ask for properties.
import type { Node } from '../ir/graph.ts';
import { GraphError, type OpDefinition } from '../ir/op.ts';
import { OPS } from '../ir/ops/index.ts';

export function opOf(node: Node): OpDefinition {
  const op = OPS.get(node.op);
  if (!op) throw new GraphError(`no op is called ${node.op} (at ${node.label})`);
  return op;
}
