// Tensor parallelism: gives one rank its slices of the weights and its share of the heads. The sums over ranks that row-
// and column-parallel pairs need are not inserted here, for there is no op yet that crosses ranks.
import type { Attributes, Graph, KVCacheSpec, Node, Parameter, Value, WeightPart } from '../../ir/graph.ts';
import type { AttentionAttributes } from '../../ir/ops/attention.ts';
import { NeedletailError } from '../../util/errors.ts';
import { GraphIndex } from '../graph-index.ts';
import { opOf } from '../op-of.ts';

export function shard(graph: Graph, rank: number, worldSize: number): Graph {
  return worldSize === 1 ? graph : new Sharding(graph, rank, worldSize).run();
}

interface Range {
  readonly start: number;
  readonly count: number;
}

class Sharding {
  readonly #graph: Graph;
  readonly #index: GraphIndex;
  readonly #rank: number;
  readonly #worldSize: number;
  /** Values under their old ids with this rank's types. */
  readonly #values = new Map<number, Value>();

  constructor(graph: Graph, rank: number, worldSize: number) {
    this.#graph = graph;
    this.#index = new GraphIndex(graph);
    this.#rank = rank;
    this.#worldSize = worldSize;
  }

  run(): Graph {
    const parameters = this.#graph.parameters.map((parameter) => this.#parameter(parameter));
    for (const { value } of parameters) this.#values.set(value.id, value);
    const nodes = this.#graph.nodes.map((node) => this.#node(node));
    const kvCaches = this.#graph.kvCaches.map((spec) => this.#cache(spec));
    const outputs = this.#graph.outputs.map((output) => ({ ...output, value: this.#local(output.value) }));
    return { ...this.#graph, parameters, nodes, kvCaches, outputs };
  }

  #local(value: Value): Value {
    return this.#values.get(value.id) ?? value;
  }

  #parameter(parameter: Parameter): Parameter {
    const { shard: kind, value, parts } = parameter;
    const linear = this.#index.users(value).find((user) => user.op === 'linear');
    if (kind === 'none' || !linear) return parameter;
    const [rows, ...columns] = value.type.shape as readonly number[];
    if (kind === 'rows') {
      const { start, count } = this.#ownRows(rows, linear.outputs[0]);
      return withParts(parameter, [count, ...columns], takeRows(parts, start, count));
    }
    const { start, count } = this.#evenShare(columns[0], value.name);
    const own = parts.map((part) => ({ ...part, columnStart: part.columnStart + start, columnCount: count }));
    return withParts(parameter, [rows, count], own);
  }

  /** Which of the rows that yield the columns of `output`. */
  #ownRows(rows: number, output: Value): Range {
    const numKvHeads = this.#headsWrittenTo(output);
    if (numKvHeads === null || numKvHeads >= this.#worldSize) return this.#evenShare(rows, output.name);
    // Fewer heads than ranks: several ranks hold the same one.
    const headSize = rows / numKvHeads;
    return { start: Math.floor((this.#rank * numKvHeads) / this.#worldSize) * headSize, count: headSize };
  }

  #evenShare(whole: number, name: string): Range {
    const count = whole / this.#worldSize;
    if (Number.isInteger(count)) return { start: this.#rank * count, count };
    throw new NeedletailError(
      'invalid_request',
      `${whole} × ${name} cannot be split over ${this.#worldSize} ranks`,
      {
        param: 'worldSize',
      },
    );
  }

  /** The KV heads of the cache that the value's rows go to, through ops that keep its columns; null if to none. */
  #headsWrittenTo(value: Value): number | null {
    for (const user of this.#index.users(value)) {
      const { hasEffect, isRowwise, matrixInput } = opOf(user);
      if (hasEffect)
        return this.#graph.kvCaches.find(({ layer }) => layer === user.attributes['layer'])!.numKvHeads;
      if (!isRowwise || matrixInput !== null) continue;
      const heads = this.#headsWrittenTo(user.outputs[0]);
      if (heads !== null) return heads;
    }
    return null;
  }

  #node(node: Node): Node {
    const inputs = node.inputs.map((input) => this.#local(input));
    const attributes = this.#attributes(node);
    const types = opOf(node).infer({
      label: node.label,
      inputs: inputs.map((input) => input.type),
      attributes,
    });
    const outputs = node.outputs.map((output, i): Value => ({ ...output, type: types[i] }));
    for (const output of outputs) this.#values.set(output.id, output);
    return { ...node, inputs, outputs, attributes };
  }

  #attributes({ op, attributes }: Node): Attributes {
    if (op !== 'attention') return attributes;
    const { numHeads, numKvHeads, alibiSlopes } = attributes as unknown as AttentionAttributes;
    const { start, count } = this.#evenShare(numHeads, 'attention heads');
    return {
      ...attributes,
      numHeads: count,
      numKvHeads: this.#ownKvHeads(numKvHeads),
      alibiSlopes: alibiSlopes?.slice(start, start + count) ?? null,
    };
  }

  #ownKvHeads(numKvHeads: number): number {
    if (numKvHeads < this.#worldSize) return 1;
    return this.#evenShare(numKvHeads, 'KV heads').count;
  }

  #cache(spec: KVCacheSpec): KVCacheSpec {
    return { ...spec, numKvHeads: this.#ownKvHeads(spec.numKvHeads) };
  }
}

function withParts(parameter: Parameter, shape: readonly number[], parts: readonly WeightPart[]): Parameter {
  const { value } = parameter;
  return { ...parameter, parts, value: { ...value, type: { ...value.type, shape } } };
}

/** The parts of rows `[start, start + count)` of the stack. */
function takeRows(parts: readonly WeightPart[], start: number, count: number): readonly WeightPart[] {
  let before = 0;
  return parts.flatMap((part) => {
    const from = Math.max(start - before, 0);
    const to = Math.min(start + count - before, part.rowCount);
    before += part.rowCount;
    return to > from ? [{ ...part, rowStart: part.rowStart + from * part.rowStep, rowCount: to - from }] : [];
  });
}
