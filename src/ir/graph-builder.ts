// Builds a graph node by node; every node's types are inferred, so a mistake shows where it is made.
import type { Dim } from '../tensor/shape.ts';
import type {
  Attributes,
  Graph,
  GraphInput,
  KVCacheSpec,
  Node,
  Parameter,
  StepInputName,
  Value,
  ValueType,
  WeightPart,
} from './graph.ts';
import { kvCacheGroups } from './kv-cache-groups.ts';
import { GraphError } from './op.ts';
import { OPS } from './ops/index.ts';
import { STEP_INPUT_TYPES } from './step-inputs.ts';
import { verifyGraph } from './verify.ts';

export interface RowRange {
  readonly start: number;
  readonly count: number;
}

/** Where a parameter stands in the checkpoint, if not as a whole tensor of its own name and shape. */
export interface ParameterStorage {
  /** The published tensor whose ranges of rows it is, and that tensor's number of rows (after transposition). */
  readonly fused?: {
    readonly tensor: string;
    readonly ranges: readonly RowRange[];
    readonly numRows: number;
  };
  /** Pieces of published tensors, one after the other, where it is no range of rows of a single one. */
  readonly parts?: readonly WeightPart[];
  /** The tensor is stored `[columns, rows]`. */
  readonly transpose?: boolean;
  readonly shard?: Parameter['shard'];
}

export class GraphBuilder {
  readonly #name: string;
  readonly #inputs: GraphInput[] = [];
  readonly #parameters = new Map<string, Parameter>();
  readonly #kvCaches: KVCacheSpec[] = [];
  readonly #nodes: Node[] = [];
  readonly #outputs: { name: string; value: Value }[] = [];
  #nextId = 0;

  constructor(name: string) {
    this.#name = name;
  }

  /** An array of the step; asked for twice, it is the same value. */
  input(name: StepInputName, group = 0): Value {
    const known = this.#inputs.find((input) => input.name === name && input.group === group);
    if (known) return known.value;
    const value = this.#newValue(group === 0 ? name : `${name}.${group}`, STEP_INPUT_TYPES[name]);
    this.#inputs.push({ name, group, value });
    return value;
  }

  /** A weight of `[rows, columns]` or `[size]` elements. */
  parameter(name: string, shape: readonly number[], storage: ParameterStorage = {}): Value {
    if (this.#parameters.has(name)) throw new GraphError(`parameter ${name} is defined twice`);
    const value = this.#newValue(name, { dtype: 'float32', shape });
    const parts = storage.parts ?? partsOf(name, shape, storage);
    this.#parameters.set(name, { name, value, parts, shard: storage.shard ?? 'none' });
    return value;
  }

  /** Declares a layer's cache; returns the group whose block table and slots it uses. */
  kvCache(spec: KVCacheSpec): number {
    this.#kvCaches.push(spec);
    return kvCacheGroups(this.#kvCaches).findIndex((group) => group.includes(spec));
  }

  /** Appends a node; returns its outputs. */
  apply(op: string, label: string, inputs: readonly Value[], attributes: Attributes = {}): readonly Value[] {
    const definition = OPS.get(op);
    if (!definition) throw new GraphError(`no op is called ${op} (at ${label})`);
    const types = definition.infer({ label, inputs: inputs.map((input) => input.type), attributes });
    const outputs = types.map((type) => this.#newValue(label === '' ? op : `${label}.${op}`, type));
    this.#nodes.push({ op, label, inputs, outputs, attributes });
    return outputs;
  }

  output(name: string, value: Value): void {
    this.#outputs.push({ name, value });
  }

  /** The graph, verified. */
  build(): Graph {
    const graph: Graph = {
      name: this.#name,
      inputs: this.#inputs,
      parameters: [...this.#parameters.values()],
      kvCaches: this.#kvCaches,
      nodes: this.#nodes,
      outputs: this.#outputs,
    };
    verifyGraph(graph);
    return graph;
  }

  #newValue(name: string, type: ValueType): Value {
    return { id: this.#nextId++, name, type };
  }
}

function partsOf(name: string, shape: readonly Dim[], storage: ParameterStorage): readonly WeightPart[] {
  const { fused, transpose = false } = storage;
  const [rows, columns = 1] = shape as readonly number[];
  const numRows = fused?.numRows ?? rows;
  const matrixShape = transpose ? [columns, numRows] : [numRows, columns];
  const tensorShape = shape.length === 1 ? [numRows] : matrixShape;
  const ranges = fused?.ranges ?? [{ start: 0, count: rows }];
  return ranges.map(({ start, count }) => ({
    name: fused ? `${fused.tensor}[${start}:${start + count}]` : name,
    tensor: fused?.tensor ?? name,
    tensorShape,
    transpose,
    rowStart: start,
    rowCount: count,
    rowStep: 1,
    columnStart: 0,
    columnCount: columns,
  }));
}
