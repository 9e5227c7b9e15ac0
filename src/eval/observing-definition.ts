// A model that gives out values from its inside, and computes no more than these take.
import type { Graph, Value } from '../ir/graph.ts';
import type { ModelDefinition } from '../models/model-definition.ts';

/** The same model, but that its logits mean nothing; values of its graph have the ids that they have without this. */
export function observingDefinition(definition: ModelDefinition, values: readonly Value[]): ModelDefinition {
  return {
    ...definition,
    buildGraph(config, options) {
      const graph = withoutLogits(definition.buildGraph(config, options));
      const further = values.map((value) => ({ name: outputName(value.id), value }));
      return { ...graph, outputs: [...graph.outputs, ...further] };
    },
  };
}

/** Every plan has logits. These come from the first value of the shape that they are gathered from: layers in between are dead. */
function withoutLogits(graph: Graph): Graph {
  const nodes = graph.nodes.map((node) => {
    if (node.op !== 'gatherRows') return node;
    const [gathered, ...others] = node.inputs;
    const first = graph.nodes.flatMap(({ outputs }) => outputs).find((value) => isAlike(value, gathered));
    return { ...node, inputs: [first ?? gathered, ...others] };
  });
  return { ...graph, nodes };
}

function isAlike(a: Value, b: Value): boolean {
  return JSON.stringify(a.type) === JSON.stringify(b.type);
}

/** What an output that holds the value is called. */
export function outputName(valueId: number): string {
  return `value.${valueId}`;
}
