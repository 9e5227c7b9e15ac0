// A model that gives out values from its inside, and computes no more than these take.
import type { Value } from '../ir/graph.ts';
import type { ModelDefinition } from '../models/model-definition.ts';
import { sliceGraph, type KnownValue } from './slice-graph.ts';

/** The same model cut down to these values, which have the ids that they have in the whole one; known values must suffice. */
export function observingDefinition(
  definition: ModelDefinition,
  values: readonly Value[],
  known: readonly KnownValue[] = [],
): ModelDefinition {
  return {
    ...definition,
    buildGraph(config, options) {
      const slice = sliceGraph(definition.buildGraph(config, options), values, known);
      if (slice === null) throw new Error('tokens must be read, and known values as well');
      return slice;
    },
  };
}
