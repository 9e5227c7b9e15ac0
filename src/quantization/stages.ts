// The order in which a model's products are quantized, and what is known of each when its turn comes.
import type { Value } from '../ir/graph.ts';
import type { DriftStatistics } from './drift.ts';
import { columnsOf, inputsOf, type GraphReader, type Product } from './products.ts';

export interface StageDrift {
  /** By the id of the value that products read. */
  readonly inputs: ReadonlyMap<number, DriftStatistics>;
  /** Mean of (r − r̃)ᵀx̃, `[rows, columns]`, for products whose results are added to an r. */
  readonly residuals: ReadonlyMap<Product, Float32Array>;
}

/** Runs of products, in the order of the graph, that read equally many inputs, give or take one. */
export function stagesOf(
  products: readonly Product[],
  maxNumStages: number,
): readonly (readonly Product[])[] {
  const inputs = inputsOf(products);
  const numStages = Math.min(maxNumStages, inputs.length);
  const stageOf = new Map(
    inputs.map(({ value }, i) => [value.id, Math.floor((i * numStages) / inputs.length)]),
  );
  return Array.from({ length: numStages }, (_, stage) =>
    products.filter(({ node }) => stageOf.get(node.inputs[0].id) === stage),
  );
}

/** What alone becomes of the product's results is that this value is added to them: the residual stream; null otherwise. */
export function residualOf({ node, weight }: Product, index: GraphReader): Value | null {
  const [result] = node.outputs;
  const users = index.users(result);
  if (users.length !== 1 || users[0].op !== 'add' || index.isOutput(result)) return null;
  const other = users[0].inputs.find(({ id }) => id !== result.id);
  const hasRows = other?.type.shape[0] === result.type.shape[0];
  return isComparable(node.inputs[0], columnsOf(weight)) && hasRows && index.producer(other) !== null
    ? other
    : null;
}

/**
 * Whether rows of the value in two models are about the same thing. Experts read a row each of those that a token chose, and
 * another model may choose others, or the same in another order.
 */
export function isComparable({ type }: Value, columns: number): boolean {
  return type.shape[1] === columns;
}

/**
 * Values `[numTokens, columns]` that depend on none of these products and that others, which do, begin with: who knows
 * them need not compute what is before.
 */
export function valuesBefore(products: readonly Product[], index: GraphReader): readonly Value[] {
  const { nodes } = index.graph;
  const behind = new Set(products.map(({ node }) => node));
  const isBehind = (value: Value): boolean => index.users(value).some((user) => behind.has(user));
  for (const node of nodes) {
    const makers = node.inputs.map((input) => index.producer(input));
    if (makers.some((maker) => maker !== null && behind.has(maker))) behind.add(node);
  }
  // What cannot be kept, such as an order of effects, is computed again.
  for (const node of nodes.toReversed()) {
    if (node.outputs.some((value) => isBehind(value) && !isMatrixOfTokens(value))) behind.add(node);
  }
  return nodes.filter((node) => !behind.has(node)).flatMap(({ outputs }) => outputs.filter(isBehind));
}

function isMatrixOfTokens({ type: { dtype, shape } }: Value): boolean {
  return dtype === 'float32' && shape[0] === 'numTokens' && shape.length === 2;
}
