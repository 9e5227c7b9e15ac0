// Writes the plan: the graph's nodes as launches, its parameters as weights, its angles as tables.
import type { Graph, KVCacheSpec, Node, Parameter, Value } from '../ir/graph.ts';
import { kvBytesPerToken, kvCacheGroups } from '../ir/kv-cache-groups.ts';
import type { RopeParameters } from '../ir/ops/rope.ts';
import { layoutBytes, type WeightLayout } from '../kernels/kernel.ts';
import type { ModelFacts } from '../models/model-definition.ts';
import { itemSize, type DType, type FloatDType } from '../tensor/dtype.ts';
import { VERSION } from '../util/version.ts';
import { GraphIndex } from './graph-index.ts';
import { opOf } from './op-of.ts';
import type { ChosenKernel } from './passes/choose-kernels.ts';
import type { MemoryPlan } from './passes/plan-memory.ts';
import {
  PLAN_FORMAT_VERSION,
  type KVCacheGroup,
  type Launch,
  type ModelSummary,
  type Operand,
  type Plan,
  type PlanHeader,
  type RopeTable,
  type WeightSpec,
} from './plan.ts';
import { activationDTypeOf, recipeName, type CompileRequest } from './request.ts';

export function emitPlan(
  graph: Graph,
  kernels: readonly ChosenKernel[],
  memory: MemoryPlan,
  request: CompileRequest,
  facts: ModelFacts,
  numParameters: number,
): Plan {
  const tables = new PlanTables(graph, request);
  const launches = kernels.map((kernel) => launchOf(kernel, memory, tables));
  const outputs = graph.outputs.map(({ name, value }) => ({ name, operand: memory.operands.get(value.id)! }));
  return {
    header: headerOf(request),
    model: summaryOf(request, facts, numParameters),
    limits: request.limits,
    blockSize: request.blockSize,
    weights: tables.weights,
    ropeTables: tables.ropeTables,
    kvCacheGroups: kvCacheGroups(graph.kvCaches).map(groupOf),
    buffers: memory.buffers,
    arenaBytes: memory.arenaBytes,
    workspaceBytes: Math.max(0, ...kernels.map((kernel) => kernel.workspaceBytes)),
    activationDType: activationDTypeOf(request),
    launches,
    logits: outputs.find(({ name }) => name === 'logits')!.operand,
    outputs: outputs.filter(({ name }) => name !== 'logits'),
  };
}

function headerOf(request: CompileRequest): PlanHeader {
  return {
    formatVersion: PLAN_FORMAT_VERSION,
    writtenBy: VERSION,
    target: request.target,
    recipe: recipeName(request.recipe),
    checkpointHash: request.checkpointHash,
    rank: request.rank ?? 0,
    worldSize: request.worldSize ?? 1,
  };
}

function summaryOf(
  { definition, maxModelLen }: CompileRequest,
  { vocabSize, hiddenSize, numLayers }: ModelFacts,
  numParameters: number,
): ModelSummary {
  return { modelType: definition.modelType, vocabSize, hiddenSize, numLayers, maxModelLen, numParameters };
}

function groupOf(layers: readonly KVCacheSpec[], index: number): KVCacheGroup {
  const bytesPerToken = layers.map(kvBytesPerToken).reduce((sum, { keys, values }) => sum + keys + values, 0);
  return { index, window: layers[0].window, layers, bytesPerToken };
}

function launchOf(
  { node, rows, variants, layout, scalesLayout }: ChosenKernel,
  memory: MemoryPlan,
  tables: PlanTables,
): Launch {
  const { inputs: operands, matrixInput, scalesInput } = opOf(node);
  const layer = node.attributes['layer'] as number;
  const place = (value: Value, wanted: WeightLayout): Operand =>
    value.type.dtype === 'token'
      ? { kind: 'kvCache', layer }
      : (memory.operands.get(value.id) ?? tables.operand(value, wanted));
  const inputs = operands.map((_, i): Operand => {
    if (i >= node.inputs.length) return { kind: 'none' };
    if (i === scalesInput) return place(node.inputs[i], scalesLayout);
    return place(node.inputs[i], (i === matrixInput && layout) || 'rowMajor');
  });
  const outputs = node.outputs.map((output) => place(output, 'rowMajor'));
  const { op, label, attributes } = node;
  return { op, label, inputs: [...inputs, ...tables.angles(node)], outputs, attributes, variants, rows };
}

/** What launches refer to by id: weights, once per layout asked for, and tables of angles, equal ones once. */
class PlanTables {
  readonly weights: WeightSpec[] = [];
  readonly ropeTables: RopeTable[] = [];
  readonly #index: GraphIndex;
  readonly #inputs: ReadonlyMap<number, Operand>;
  readonly #weightDType: FloatDType;
  readonly #vectorDType: FloatDType;
  readonly #numPositions: number;
  readonly #weightIds = new Map<string, number>();
  readonly #tableIds = new Map<string, number>();

  constructor(graph: Graph, request: CompileRequest) {
    this.#index = new GraphIndex(graph);
    this.#inputs = new Map(
      graph.inputs.map(({ name, group, value }) => [value.id, { kind: 'input', name, group }]),
    );
    this.#weightDType = request.recipe.weightDType;
    // The cpu computes in float32, norm weights and biases with it; they are a millionth of the weights.
    this.#vectorDType = request.target.kind === 'cuda' ? this.#weightDType : 'float32';
    this.#numPositions = request.maxModelLen;
  }

  /** A step input or a weight. */
  operand(value: Value, layout: WeightLayout): Operand {
    const input = this.#inputs.get(value.id);
    if (input) return input;
    const parameter = this.#index.parameter(value)!;
    const id = idOf(this.#weightIds, `${value.id} ${layout}`, (next) => {
      this.weights.push(this.#weight(next, parameter, layout));
    });
    return { kind: 'weight', id };
  }

  /** The table that a rotary op reads, as its last operand. */
  angles(node: Node): readonly Operand[] {
    const rope = node.attributes['rope'] as RopeParameters | undefined;
    if (!rope) return [];
    const { rotaryDim, inverseFrequencies, attentionFactor } = rope;
    const numPositions = this.#numPositions;
    const bytes = numPositions * rotaryDim * itemSize('float32');
    const content = { numPositions, rotaryDim, inverseFrequencies, attentionFactor, bytes };
    const id = idOf(this.#tableIds, JSON.stringify(content), (next) =>
      this.ropeTables.push({ id: next, ...content }),
    );
    return [{ kind: 'ropeTable', id }];
  }

  #weight(id: number, parameter: Parameter, layout: WeightLayout): WeightSpec {
    const { name, value, parts, quantization = null } = parameter;
    const shape = value.type.shape as readonly number[];
    const dtype = this.#storedDType(parameter);
    const bytes = layoutBytes(layout, shape[0], shape[1] ?? 1, itemSize(dtype));
    return { id, name, dtype, shape, layout, parts, quantization, bytes };
  }

  #storedDType({ value: { type }, quantization, storedAs }: Parameter): DType {
    if (storedAs) return storedAs;
    if (quantization) return quantization.holds === 'codes' ? quantization.format.dtype : 'float32';
    return type.shape.length === 2 ? this.#weightDType : this.#vectorDType;
  }
}

function idOf(ids: Map<string, number>, key: string, create: (id: number) => void): number {
  const known = ids.get(key);
  if (known !== undefined) return known;
  const id = ids.size;
  ids.set(key, id);
  create(id);
  return id;
}
