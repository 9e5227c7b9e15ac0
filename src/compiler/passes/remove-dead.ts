// Drops nodes whose results nobody reads, and parameters and step inputs that no node reads any more.
import type { Graph, Node, Value } from '../../ir/graph.ts';
import { opOf } from '../op-of.ts';

export function removeDead(graph: Graph): Graph {
  const live = new Set(graph.outputs.map((output) => output.value.id));
  const isLive = (value: Value): boolean => live.has(value.id);
  const kept: Node[] = [];
  for (const node of graph.nodes.toReversed()) {
    if (!opOf(node).hasEffect && !node.outputs.some(isLive)) continue;
    for (const input of node.inputs) live.add(input.id);
    kept.push(node);
  }
  return {
    ...graph,
    inputs: graph.inputs.filter((input) => isLive(input.value)),
    parameters: graph.parameters.filter((parameter) => isLive(parameter.value)),
    nodes: kept.toReversed(),
  };
}
