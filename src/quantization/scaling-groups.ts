// Where factors can move between a value and the weights that read it without a change of what the model computes: what
// makes the value (a norm, or a product whose rows become its columns) takes 1/s, all that read it take s.
import type { Node, Parameter, Value } from '../ir/graph.ts';
import { biasOf, columnsOf, weightOf, type GraphReader, type Product } from './products.ts';

export interface ScalingGroup {
  readonly input: Value;
  readonly columns: number;
  /** Weights that read the value: of products that are quantized, and of products that stay floats. */
  readonly products: readonly Product[];
  readonly kept: readonly Parameter[];
  readonly source: ScaleSource;
  /** For each column the factor that it shares with others, `[columns]`, of `numFactors`. */
  readonly factorOf: Int32Array;
  readonly numFactors: number;
}

/** What can take 1/s: row r of the weight and of the bias take the factor `r % numFactors`. */
export interface ScaleSource {
  readonly weight: Parameter;
  readonly bias: Parameter | null;
  /** A norm multiplies by weight + offset; null for the rows of a product. */
  readonly normOffset: number | null;
}

interface TracedSource extends ScaleSource {
  /** Columns of the value map to factors by `factorOf`. */
  readonly factorOf: (column: number) => number;
  readonly numFactors: number;
}

/** The groups of a graph, in the order in which their values are computed. */
export function findScalingGroups(index: GraphReader, products: readonly Product[]): readonly ScalingGroup[] {
  const byNode = new Map(products.map((product) => [product.node, product]));
  const inputs = new Map(products.map(({ node }) => [node.inputs[0].id, node.inputs[0]]));
  return [...inputs.values()].flatMap((input) => groupOf(input, byNode, index));
}

function groupOf(
  input: Value,
  byNode: ReadonlyMap<Node, Product>,
  index: GraphReader,
): readonly ScalingGroup[] {
  const users = index.users(input);
  const source = index.isOutput(input) ? null : traceSource(input, index);
  if (source === null || !users.every((user) => readsAsMatrix(user, input, index))) return [];
  const weights = users.map((user) => weightOf(user, index)!);
  const columns = columnsOf(weights[0]);
  const factorOf = sharedFactors(input, columns, source);
  if (factorOf === null || weights.some((weight) => columnsOf(weight) !== columns)) return [];
  const { weight, bias, normOffset, numFactors } = source;
  return [
    {
      input,
      columns,
      products: users.flatMap((user) => byNode.get(user) ?? []),
      kept: users.filter((user) => !byNode.has(user)).map((user) => weightOf(user, index)!),
      source: { weight, bias, normOffset },
      factorOf,
      numFactors,
    },
  ];
}

/** The node multiplies the value by a weight that nothing else reads. */
function readsAsMatrix(user: Node, input: Value, index: GraphReader): boolean {
  const weight = weightOf(user, index);
  const isOnlyOperand = user.inputs.filter(({ id }) => id === input.id).length === 1;
  return weight !== null && user.inputs[0].id === input.id && isOnlyOperand && isReadOnce(weight, index);
}

function isReadOnce({ value }: Parameter, index: GraphReader): boolean {
  return index.users(value).length === 1;
}

/** Experts read a part of the value each, `columns` wide: columns that meet the same column of a weight share a factor. */
function sharedFactors({ type }: Value, columns: number, { factorOf }: TracedSource): Int32Array | null {
  const width = type.shape[1] as number;
  const factors = Int32Array.from({ length: columns }, (_, column) => factorOf(column));
  for (let column = columns; column < width; column++) {
    if (factorOf(column) !== factors[column % columns]) return null;
  }
  return factors;
}

function traceSource(value: Value, index: GraphReader): TracedSource | null {
  const node = index.producer(value);
  switch (node?.op) {
    case undefined:
      return null;
    case 'rmsNorm':
    case 'layerNorm':
      return normSource(node, index);
    case 'multiply':
      return soleSource(node.inputs[1], index) ?? soleSource(node.inputs[0], index);
    case 'activation':
      // max(0, x) / s = max(0, x / s); no other activation lets factors through.
      return node.attributes['kind'] === 'relu' ? soleSource(node.inputs[0], index) : null;
    case 'attention':
      return valueSource(node, index);
    default:
      return productSource(node!, index);
  }
}

function normSource(node: Node, index: GraphReader): TracedSource | null {
  const [weight, bias] = node.inputs.slice(1).map((operand) => index.parameter(operand));
  if (!weight || !isReadOnce(weight, index) || (bias && !isReadOnce(bias, index))) return null;
  const numFactors = weight.value.type.shape[0] as number;
  const normOffset = (node.attributes['weightOffset'] as number | undefined) ?? 0;
  return { weight, bias: bias ?? null, normOffset, numFactors, factorOf: (column) => column % numFactors };
}

/** The source of a value that only the node at hand reads. */
function soleSource(value: Value, index: GraphReader): TracedSource | null {
  if (index.users(value).length !== 1 || index.isOutput(value)) return null;
  const node = index.producer(value);
  if (node?.op === 'activation') return traceSource(value, index);
  return node === null ? null : productSource(node, index);
}

function productSource(node: Node, index: GraphReader): TracedSource | null {
  const weight = weightOf(node, index);
  if (weight === null || !isReadOnce(weight, index)) return null;
  const bias = biasOf(node, index);
  if (bias && !isReadOnce(bias, index)) return null;
  const numRows = weight.value.type.shape[0] as number;
  const { numMatrices = 1, matricesPerToken = 1 } = node.attributes as Record<string, number>;
  // Of experts any may stand in any place: their rows share factors.
  const isChosen = numMatrices !== matricesPerToken || node.inputs.length > (bias ? 3 : 2);
  const numFactors = numMatrices > 1 && isChosen ? numRows / numMatrices : numRows;
  return { weight, bias, normOffset: null, numFactors, factorOf: (column) => column % numFactors };
}

/** Attention's results are weighted sums of values: the product that makes these, whose rows several query heads may share. */
function valueSource(node: Node, index: GraphReader): TracedSource | null {
  const { layer, numHeads, numKvHeads, valueHeadDim } = node.attributes as Record<string, number>;
  const ofLayer = index.graph.nodes.filter(({ attributes }) => attributes['layer'] === layer);
  const [write] = ofLayer.filter(({ op }) => op === 'kvWrite');
  if (ofLayer.length !== 2 || !write) return null;
  const source = soleSource(write.inputs[1], index);
  if (source === null || source.numFactors !== numKvHeads * valueHeadDim) return null;
  const factorOf = (column: number): number => {
    const kvHead = Math.floor((Math.floor(column / valueHeadDim) * numKvHeads) / numHeads);
    return kvHead * valueHeadDim + (column % valueHeadDim);
  };
  return { ...source, factorOf };
}
