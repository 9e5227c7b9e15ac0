// Joins the gate's and the up's products of experts, matrix by matrix, into one product with the activation between them, where the
// target has such an op: activation(x · gate) · (x · up) of each token's experts without writing either.
import type { Graph, Node, Parameter, Value, WeightPart } from '../../ir/graph.ts';
import { gatedName } from '../../ir/ops/gated-products.ts';
import { GraphIndex } from '../graph-index.ts';
import type { KernelRequest } from '../kernel-query.ts';
import { opOf } from '../op-of.ts';
import { isWanted } from './fuse.ts';
import { mergedName } from './merge.ts';

/** What becomes of a multiplication of two products, the first activated. */
interface Join {
  readonly replaces: readonly Node[];
  readonly joined: Node;
  readonly parameters: readonly Parameter[];
}

export function mergeExperts(graph: Graph, request: KernelRequest): Graph {
  const index = new GraphIndex(graph);
  const found = graph.nodes.flatMap((node) => joinAt(node, index) ?? []);
  const parameters = [...graph.parameters, ...found.flatMap((join) => join.parameters)];
  const extended = new GraphIndex({ ...graph, parameters });
  const joins = found.filter(({ joined }) => isWanted(joined, extended, request));
  const removed = new Set(joins.flatMap(({ replaces }) => replaces));
  const joinedAt = new Map(joins.map(({ replaces, joined }) => [replaces.at(-1)!, joined]));
  const isJoined = ({ value }: Parameter): boolean => index.users(value).some((user) => removed.has(user));
  return {
    ...graph,
    parameters: [
      ...graph.parameters.filter((parameter) => !isJoined(parameter)),
      ...joins.flatMap((join) => join.parameters),
    ],
    nodes: graph.nodes.flatMap((node) => joinedAt.get(node) ?? (removed.has(node) ? [] : [node])),
  };
}

function joinAt(product: Node, index: GraphIndex): Join | null {
  if (product.op !== 'multiply') return null;
  const [a, b] = product.inputs;
  return joinOperands(product, a, b, index) ?? joinOperands(product, b, a, index);
}

function joinOperands(product: Node, activated: Value, upValue: Value, index: GraphIndex): Join | null {
  const activation = index.producer(activated);
  if (activation?.op !== 'activation' || index.soleUser(activated) !== product) return null;
  const [gate, up] = [index.producer(activation.inputs[0]), index.producer(upValue)];
  if (!gate || !up || !canJoin(gate, up, index)) return null;
  if (index.soleUser(gate.outputs[0]) !== activation || index.soleUser(up.outputs[0]) !== product)
    return null;
  const parameters = new Map(
    groupedOperands(gate).map(({ place, value }) => {
      const parts = [value, up.inputs[place]].map((operand) => index.parameter(operand)!);
      return [place, joinParameters(parts, Number(gate.attributes['numMatrices']), index)];
    }),
  );
  const joined: Node = {
    op: gatedName(gate.op),
    label: product.label,
    inputs: gate.inputs.map((input, i) => parameters.get(i)?.value ?? input),
    outputs: product.outputs,
    attributes: { ...gate.attributes, ...activation.attributes },
  };
  return { replaces: [gate, up, activation, product], joined, parameters: [...parameters.values()] };
}

/** Operands of the node that hold rows of its matrices. */
function groupedOperands(node: Node): readonly { readonly place: number; readonly value: Value }[] {
  const places = opOf(node).groupedInputs.filter((place) => place < node.inputs.length);
  return places.map((place) => ({ place, value: node.inputs[place] }));
}

/** Both are alike, and their parameters are nobody else's. */
function canJoin(gate: Node, up: Node, index: GraphIndex): boolean {
  const grouped = [gate, up].map(groupedOperands);
  const areOwn = [gate, up].every((node, i) =>
    grouped[i].every(({ value }) => index.parameter(value) && index.soleUser(value) === node),
  );
  return grouped[0].length > 0 && areOwn && keyOf(gate, index) === keyOf(up, index);
}

function keyOf(node: Node, index: GraphIndex): string {
  const { op, inputs, outputs, attributes } = node;
  const grouped = groupedOperands(node);
  const kinds = grouped.map(({ place, value }) => [place, index.parameter(value)!.quantization, value.type]);
  const shared = inputs.map((value, i) => (grouped.some(({ place }) => place === i) ? null : value.id));
  return JSON.stringify([op, shared, outputs[0].type, attributes, kinds]);
}

/** One parameter with the rows of the first, then those of the second, of each matrix. */
function joinParameters(
  [first, second]: readonly Parameter[],
  numMatrices: number,
  index: GraphIndex,
): Parameter {
  const name = mergedName([first.name, second.name]);
  const { dtype, shape } = first.value.type;
  const [rows, ...columns] = shape as readonly number[];
  const [ofFirst, ofSecond] = [first, second].map(({ parts }) => byMatrix(parts, rows / numMatrices));
  return {
    ...first,
    name,
    value: index.newValue(name, { dtype, shape: [2 * rows, ...columns] }),
    parts: ofFirst.flatMap((parts, matrix) => [...parts, ...ofSecond[matrix]]),
  };
}

/** No part crosses from one matrix to the next. */
function byMatrix(parts: readonly WeightPart[], matrixRows: number): readonly (readonly WeightPart[])[] {
  const matrices: WeightPart[][] = [];
  let row = 0;
  for (const part of parts) {
    (matrices[Math.floor(row / matrixRows)] ??= []).push(part);
    row += part.rowCount;
  }
  return matrices;
}
