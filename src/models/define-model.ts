// Completes a model's definition from what its file states: a config schema, its mathematics, its names.
import type { z } from 'zod';
import type { Graph } from '../ir/graph.ts';
import { GraphError } from '../ir/op.ts';
import { Scope, Tracer, type Tensor } from '../nn/tensor.ts';
import { NeedletailError } from '../util/errors.ts';
import { readConfig } from './config.ts';
import type { BuildOptions, HFConfig, ModelDefinition, ModelFacts } from './model-definition.ts';

interface ModelSpec<S extends z.ZodObject> extends Pick<
  ModelDefinition,
  'tensorNames' | 'isBuffer' | 'adaptTensors'
> {
  readonly modelType: string;
  readonly architectures: readonly string[];
  readonly schema: S;
  /** Further fields of this model_type's configs that mean nothing for inference. */
  readonly neutralFields?: readonly string[];
  /** Other spellings of fields: the schema's name by the other one. */
  readonly aliases?: Readonly<Record<string, string>>;
  readonly facts: (config: z.output<S>) => Omit<ModelFacts, 'numParameters'>;
  /** States the computation; returns the logits `[numLogitRows, vocabSize]`. */
  readonly forward: (scope: Scope, config: z.output<S>, contextLength: number) => Tensor;
}

export function defineModel<S extends z.ZodObject>(spec: ModelSpec<S>): ModelDefinition {
  const {
    modelType,
    architectures,
    schema,
    neutralFields = [],
    aliases = {},
    facts,
    forward,
    ...names
  } = spec;
  const read = (config: HFConfig): z.output<S> => readConfig(schema, renamed(config, aliases), neutralFields);
  const buildGraph = (config: HFConfig, options: BuildOptions): Graph => {
    const known = read(config);
    const tracer = new Tracer(modelType, options.kvDType);
    try {
      const logits = forward(new Scope(tracer), known, options.maxModelLen);
      tracer.graph.output('logits', logits.value);
      return tracer.graph.build();
    } catch (error) {
      throw error instanceof GraphError ? unfittingConfig(modelType, error) : error;
    }
  };
  return {
    modelType,
    architectures,
    buildGraph,
    facts(config) {
      const known = facts(read(config));
      const graph = buildGraph(config, { kvDType: 'float32', maxModelLen: known.maxPositions });
      return { ...known, numParameters: countElements(graph) };
    },
    ...names,
  };
}

/** Fields under the schema's names, which win where a config has both spellings. */
function renamed(config: HFConfig, aliases: Readonly<Record<string, string>>): HFConfig {
  const entries = Object.entries(config).map(([field, value]) => [aliases[field] ?? field, value] as const);
  const own = Object.entries(config).filter(([field]) => !Object.hasOwn(aliases, field));
  return Object.fromEntries([...entries, ...own]);
}

/** Each size of the config is fine by itself, but the ops find that they do not go together. */
function unfittingConfig(modelType: string, cause: GraphError): NeedletailError {
  const message = `the sizes in config.json of a ${modelType} model do not fit together: ${cause.message}`;
  return new NeedletailError('bad_checkpoint', message, { cause });
}

function countElements(graph: Graph): number {
  return graph.parameters.reduce(
    (sum, parameter) => sum + (parameter.value.type.shape as readonly number[]).reduce((a, b) => a * b, 1),
    0,
  );
}
