// Merges linears that read the same input into one (QKV; gate and up), found by structure: one larger matrix product
// instead of several small ones. The old outputs become column views of the merged output.
import type { Graph, Node, Parameter, Value } from '../../ir/graph.ts';
import { GraphIndex } from '../graph-index.ts';
import { opOf } from '../op-of.ts';

/** Linears that become one, with their weights and (all or none) biases. */
interface Merge {
  readonly linears: readonly Node[];
  readonly merged: Node;
  readonly slices: readonly Node[];
  readonly parameters: readonly Parameter[];
}

export function merge(graph: Graph): Graph {
  const index = new GraphIndex(graph);
  const merges = mergeableGroups(index).map((linears) => mergeLinears(linears, index));
  const replacement = new Map(merges.map((item) => [item.linears[0], [item.merged, ...item.slices]]));
  const removed = new Set(merges.flatMap((item) => item.linears));
  const isMerged = (parameter: Parameter): boolean =>
    index.users(parameter.value).some((user) => removed.has(user));
  return {
    ...graph,
    parameters: [
      ...graph.parameters.filter((parameter) => !isMerged(parameter)),
      ...merges.flatMap((item) => item.parameters),
    ],
    nodes: graph.nodes.flatMap((node) => replacement.get(node) ?? (removed.has(node) ? [] : [node])),
  };
}

/** Groups of two or more linears of one input, in the graph's order; linears of unequal kind stay apart. */
function mergeableGroups(index: GraphIndex): readonly (readonly Node[])[] {
  const groups = new Map<string, Node[]>();
  for (const node of index.graph.nodes) {
    if (stackedOperands(node).length === 0 || !ownsItsParameters(node, index)) continue;
    const key = groupKey(node, index);
    groups.set(key, [...(groups.get(key) ?? []), node]);
  }
  return [...groups.values()].filter((group) => group.length > 1);
}

/** Weight and bias are parameters that nothing else reads (a tied embedding must stay as it is). */
function ownsItsParameters(node: Node, index: GraphIndex): boolean {
  return stackedOperands(node).every((value) => index.parameter(value) && index.soleUser(value) === node);
}

/** Weight, scales and bias, as far as the node has them: their rows are the columns of its output. */
function stackedOperands(node: Node): readonly Value[] {
  return node.inputs.filter((_, i) => opOf(node).stackedInputs.includes(i));
}

/** Equal for linears that may become one: same op and input, output type, sharding, and a bias in all or in none. */
function groupKey(node: Node, index: GraphIndex): string {
  const { op, inputs, outputs, attributes } = node;
  const stacked = stackedOperands(node);
  const kinds = stacked.map((value) => {
    const { shard, quantization } = index.parameter(value)!;
    return { shard, quantization };
  });
  const shared = inputs.filter((value) => !stacked.includes(value)).map((value) => value.id);
  return JSON.stringify([op, shared, outputs[0].type.dtype, attributes, kinds]);
}

function mergeLinears(linears: readonly Node[], index: GraphIndex): Merge {
  const [first] = linears;
  const stacked = stackedOperands(first).map((operand) => {
    const place = first.inputs.indexOf(operand);
    const parameter = stackParameters(
      linears.map((linear) => index.parameter(linear.inputs[place])!),
      index,
    );
    return { place, parameter };
  });
  const inputs = first.inputs.map(
    (input, i) => stacked.find(({ place }) => place === i)?.parameter.value ?? input,
  );
  const outputs = linears.map((linear) => linear.outputs[0]);
  const columns = outputs.map((output) => output.type.shape[1] as number);
  const total = columns.reduce((sum, count) => sum + count, 0);
  const { dtype, shape } = outputs[0].type;
  const output = index.newValue(mergedName(outputs.map((value) => value.name)), {
    dtype,
    shape: [shape[0], total],
  });
  const merged: Node = {
    ...first,
    label: mergedName(linears.map((linear) => linear.label)),
    inputs,
    outputs: [output],
  };
  const slices = linears.map((linear, i) => sliceOf(output, linear, columns.slice(0, i), columns[i]));
  return { linears, merged, slices, parameters: stacked.map(({ parameter }) => parameter) };
}

function sliceOf(source: Value, linear: Node, before: readonly number[], columns: number): Node {
  const start = before.reduce((sum, count) => sum + count, 0);
  return {
    op: 'slice',
    label: linear.label,
    inputs: [source],
    outputs: linear.outputs,
    attributes: { start, columns },
  };
}

/** One parameter whose rows are the given ones', each part under its own name. */
function stackParameters(parameters: readonly Parameter[], index: GraphIndex): Parameter {
  const name = mergedName(parameters.map((parameter) => parameter.name));
  const { dtype, shape } = parameters[0].value.type;
  const rows = parameters.reduce((sum, parameter) => sum + (parameter.value.type.shape[0] as number), 0);
  return {
    ...parameters[0],
    name,
    value: index.newValue(name, { dtype, shape: [rows, ...shape.slice(1)] }),
    parts: parameters.flatMap((parameter) => parameter.parts),
  };
}

/** `layers.0.{q_proj,k_proj}.weight`: what the names share, with the rest in braces. */
export function mergedName(names: readonly string[]): string {
  const paths = names.map((name) => name.split('.'));
  const shortest = Math.min(...paths.map((path) => path.length));
  const agree = (at: (path: string[]) => string | undefined): boolean =>
    paths.every((path) => at(path) === at(paths[0]));
  let head = 0;
  while (head < shortest && agree((path) => path[head])) head++;
  let tail = 0;
  while (tail < shortest - head && agree((path) => path.at(-1 - tail))) tail++;
  const middles = paths.map((path) => path.slice(head, path.length - tail).join('.'));
  if (middles.every((middle) => middle === '')) return names[0];
  const end = tail === 0 ? [] : paths[0].slice(-tail);
  return [...paths[0].slice(0, head), `{${middles.join(',')}}`, ...end].join('.');
}
