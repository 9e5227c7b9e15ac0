// Tensor parallelism: gives one rank its slices of the weights and its share of the heads. The sums over ranks that row-
// and column-parallel pairs need are not inserted here, for there is no op yet that crosses ranks.
import type { Attributes, Graph, KVCacheSpec, Node, Parameter, Value, WeightPart } from '../../ir/graph.ts';
import { NeedletailError } from '../../util/errors.ts';
import { GraphIndex } from '../graph-index.ts';
import { opOf } from '../op-of.ts';

export function shard(graph: Graph, rank: number, worldSize: number): Graph {
  return worldSize === 1 ? graph : new Sharding(graph, rank, worldSize).run();
}

/** Rows `[start, start + count)` of a parameter. */
interface RowRange {
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
      const ranges = this.#sections(linear).map((section) => this.#ownRows(section));
      const own = ranges.flatMap((range) => takeRows(parts, range));
      return withParts(parameter, own, [ranges.reduce((sum, range) => sum + range.count, 0), ...columns]);
    }
    const { start, count } = this.#evenShare({ start: 0, count: columns[0] }, value.name);
    const own = parts.map((part) => ({ ...part, columnStart: part.columnStart + start, columnCount: count }));
    return withParts(parameter, own, [rows, count]);
  }

  /** Columns of a linear's output that are split by themselves: all at once, or each slice that is taken of them. */
  #sections(linear: Node): readonly (RowRange & { readonly value: Value })[] {
    const [output] = linear.outputs;
    const users = this.#index.users(output);
    if (users.some((user) => user.op !== 'slice')) {
      return [{ start: 0, count: output.type.shape[1] as number, value: output }];
    }
    return users.map(({ attributes, outputs }) => {
      return {
        start: attributes['start'] as number,
        count: attributes['columns'] as number,
        value: outputs[0],
      };
    });
  }

  #ownRows(section: RowRange & { readonly value: Value }): RowRange {
    const numKvHeads = this.#headsWrittenTo(section.value);
    if (numKvHeads === null || numKvHeads >= this.#worldSize)
      return this.#evenShare(section, section.value.name);
    // Fewer heads than ranks: several ranks hold the same one.
    const headSize = section.count / numKvHeads;
    const head = Math.floor((this.#rank * numKvHeads) / this.#worldSize);
    return { start: section.start + head * headSize, count: headSize };
  }

  #evenShare({ start, count }: RowRange, name: string): RowRange {
    const share = count / this.#worldSize;
    if (!Number.isInteger(share)) throw unevenSplit(`${count} rows or columns of ${name}`, this.#worldSize);
    return { start: start + this.#rank * share, count: share };
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

  #attributes({ op, inputs, outputs, attributes }: Node): Attributes {
    if (op === 'slice') return this.#sliceAttributes(inputs[0], outputs[0], attributes);
    if (op !== 'attention') return attributes;
    const { numHeads, numKvHeads, alibiSlopes } = attributes as { [key: string]: unknown };
    const heads = this.#evenShare({ start: 0, count: numHeads as number }, 'attention heads');
    return {
      ...attributes,
      numHeads: heads.count,
      numKvHeads: this.#ownKvHeads(numKvHeads as number),
      alibiSlopes: (alibiSlopes as number[] | null)?.slice(heads.start, heads.start + heads.count) ?? null,
    };
  }

  /** The slices of a split linear follow one another as its sections do; others stay. */
  #sliceAttributes(source: Value, taken: Value, attributes: Attributes): Attributes {
    const linear = this.#index.producer(source);
    const weight = linear?.op === 'linear' ? this.#index.parameter(linear.inputs[1]) : null;
    if (!linear || weight?.shard !== 'rows') return attributes;
    let start = 0;
    for (const section of this.#sections(linear)) {
      const columns = this.#ownRows(section).count;
      if (section.value.id === taken.id) return { start, columns };
      start += columns;
    }
    return attributes;
  }

  #ownKvHeads(numKvHeads: number): number {
    if (numKvHeads < this.#worldSize) return 1;
    return this.#evenShare({ start: 0, count: numKvHeads }, 'KV heads').count;
  }

  #cache(spec: KVCacheSpec): KVCacheSpec {
    return { ...spec, numKvHeads: this.#ownKvHeads(spec.numKvHeads) };
  }
}

function withParts(parameter: Parameter, parts: readonly WeightPart[], shape: readonly number[]): Parameter {
  const { value } = parameter;
  return { ...parameter, parts, value: { ...value, type: { ...value.type, shape } } };
}

/** The parts of rows `[start, start + count)` of the stack. */
function takeRows(parts: readonly WeightPart[], { start, count }: RowRange): readonly WeightPart[] {
  let before = 0;
  return parts.flatMap((part) => {
    const from = Math.max(start - before, 0);
    const to = Math.min(start + count - before, part.rowCount);
    before += part.rowCount;
    return to > from ? [{ ...part, rowStart: part.rowStart + from, rowCount: to - from }] : [];
  });
}

function unevenSplit(what: string, worldSize: number): NeedletailError {
  return new NeedletailError('invalid_request', `${what} cannot be split over ${worldSize} ranks`, {
    param: 'worldSize',
  });
}
