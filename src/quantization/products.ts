// What calibration works on: the products of a graph whose weights become codes, and who reads and makes their inputs.
import type { Graph, Node, Parameter, Value } from '../ir/graph.ts';
import { OPS } from '../ir/ops/index.ts';
import type { ActivationFormat, WeightFormat } from '../tensor/weight-format.ts';

/** Who makes and who reads each value of a graph. */
export interface GraphReader {
  readonly graph: Graph;
  producer(value: Value): Node | null;
  users(value: Value): readonly Node[];
  parameter(value: Value): Parameter | null;
  isOutput(value: Value): boolean;
}

/** A linear, of one matrix or of many, and what its weight is to be written as. */
export interface Product {
  readonly node: Node;
  readonly weight: Parameter;
  readonly format: WeightFormat;
}

export interface ProductFormats {
  readonly weights: WeightFormat;
  readonly activations: ActivationFormat | null;
}

/** The columns `[rows, columns]` of a weight matrix. */
export function columnsOf(weight: Parameter): number {
  return weight.value.type.shape[1] as number;
}

/** The weight of a node that multiplies a matrix of the checkpoint; null for any other node. */
export function weightOf(node: Node, index: GraphReader): Parameter | null {
  const { quantizedForms, matrixInput } = OPS.get(node.op)!;
  return quantizedForms === null ? null : index.parameter(node.inputs[matrixInput!]);
}

/** The bias that is added to a product's results, one element for each row of the weight; null for none. */
export function biasOf(node: Node, index: GraphReader): Parameter | null {
  const numRows = node.inputs[OPS.get(node.op)!.matrixInput!].type.shape[0];
  const last = node.inputs.at(-1)!;
  const isBias = last.type.shape.length === 1 && last.type.shape[0] === numRows;
  return isBias ? index.parameter(last) : null;
}

/** An input of products; its rows are read as rows of `columns` elements, where each expert has columns of its own. */
export interface ProductInput {
  readonly value: Value;
  readonly columns: number;
}

/** What products read, each input once. */
export function inputsOf(products: readonly Product[]): readonly ProductInput[] {
  const inputs = new Map<number, ProductInput>();
  for (const { node, weight } of products) {
    const [value] = node.inputs;
    inputs.set(value.id, { value, columns: columnsOf(weight) });
  }
  return [...inputs.values()];
}
