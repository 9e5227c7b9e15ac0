// A model that also gives out what its products read.
import type { Graph } from '../ir/graph.ts';
import type { ModelDefinition } from '../models/model-definition.ts';
import type { ProductInput } from '../quantization/products.ts';

/** The same model; values of its graph have the ids that they have without this. */
export function observingDefinition(
  definition: ModelDefinition,
  inputs: readonly ProductInput[],
): ModelDefinition {
  return {
    ...definition,
    buildGraph(config, options) {
      const graph = definition.buildGraph(config, options);
      const further = inputs.map(({ value }) => ({ name: outputName(value.id), value }));
      return { ...graph, outputs: [...graph.outputs, ...further, ...gathered(graph)] };
    },
  };
}

/** What logit rows are gathered from, so that all before it is computed for every token, as it is without these outputs. */
function gathered({ nodes }: Graph): Graph['outputs'] {
  const gathers = nodes.filter(({ op }) => op === 'gatherRows');
  return gathers.map(({ inputs: [value] }) => ({ name: `gathered.${value.id}`, value }));
}

/** What an output that holds the value is called. */
export function outputName(valueId: number): string {
  return `input.${valueId}`;
}
