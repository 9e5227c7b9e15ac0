// Codes and scales of weights as the tensors of a checkpoint that had been quantized before: under the names, and in the
// rows, from which the float weights were cut.
import type { Graph, Parameter, WeightPart } from '../ir/graph.ts';
import { encodeCodes } from '../tensor/codes.ts';
import { scaleOf, type QuantizedRows } from '../tensor/quantize-rows.ts';
import { asMatrix } from '../tensor/shape.ts';
import {
  inputScaleTensorName,
  scaleTensorName,
  type TensorFacts,
  type TensorView,
} from '../tensor/tensor-source.ts';
import { scaleColumns } from '../tensor/weight-format.ts';
import { columnsOf, type Product, type ProductFormats } from './products.ts';

/** Of these products those whose tensors can hold codes: whole rows, every one of them a row of such a weight. */
export function storableProducts(graph: Graph, products: readonly Product[]): readonly Product[] {
  const storable = new Map(products.map((product) => [product.weight, product]));
  for (let before = Infinity; before > storable.size;) {
    before = storable.size;
    for (const [tensor, users] of tensorUsers(graph)) {
      if (canHoldCodes(tensor, users, storable)) continue;
      for (const user of users) storable.delete(user);
    }
  }
  return products.filter(({ weight }) => storable.has(weight));
}

function tensorUsers({ parameters }: Graph): ReadonlyMap<string, readonly Parameter[]> {
  const users = new Map<string, Set<Parameter>>();
  for (const parameter of parameters) {
    for (const { tensor } of parameter.parts) {
      users.set(tensor, (users.get(tensor) ?? new Set()).add(parameter));
    }
  }
  return new Map([...users].map(([tensor, parameters]) => [tensor, [...parameters]]));
}

function canHoldCodes(
  tensor: string,
  users: readonly Parameter[],
  storable: ReadonlyMap<Parameter, Product>,
): boolean {
  const products = users.map((user) => storable.get(user));
  const parts = users.flatMap((user) => user.parts.filter((part) => part.tensor === tensor));
  const [{ tensorShape, transpose }] = parts;
  const numRows = tensorShape.reduce((product, size) => product * size, 1) / matrixColumns(parts[0]);
  return (
    products.every((product) => JSON.stringify(product?.format) === JSON.stringify(products[0]?.format)) &&
    parts.every((part) => part.transpose === transpose && hasWholeRows(part)) &&
    parts.reduce((sum, part) => sum + part.rowCount, 0) === numRows
  );
}

/** Columns of the part's matrix as its tensor has it, turned if need be. */
function matrixColumns({ tensorShape, transpose }: WeightPart): number {
  return tensorShape.at(transpose ? -2 : -1) ?? 1;
}

function hasWholeRows(part: WeightPart): boolean {
  const columns = matrixColumns(part);
  return part.columnCount === columns && part.columnStart % columns === 0;
}

/** A tensor that codes are being written into. */
interface Pending {
  readonly formats: ProductFormats;
  readonly shape: readonly number[];
  readonly codes: Float32Array;
  readonly scales: Float32Array;
  range: number;
  numRowsLeft: number;
}

type NamedTensor = readonly [name: string, facts: TensorFacts, view: TensorView];

export class CodeTensors {
  readonly #pending = new Map<string, Pending>();
  /** Whole tensors, with their scales. */
  readonly #finished = new Map<string, readonly NamedTensor[]>();

  /** All rows of the tensors that the weight is cut from have codes. */
  has({ parts }: Parameter): boolean {
    return parts.every(({ tensor }) => this.#finished.has(tensor));
  }

  /** `range`: of static activations the magnitude that the largest code stands for. */
  add(weight: Parameter, formats: ProductFormats, { codes, scales }: QuantizedRows, range: number): void {
    const columns = columnsOf(weight);
    const scaleCount = scaleColumns(formats.weights, columns);
    let row = 0;
    for (const part of weight.parts) {
      const tensor = this.#tensorOf(part, formats);
      tensor.range = Math.max(tensor.range, range);
      for (let i = 0; i < part.rowCount; i++, row++) {
        const target = storedRow(part, i);
        tensor.codes.set(codes.subarray(row * columns, (row + 1) * columns), target * columns);
        tensor.scales.set(scales.subarray(row * scaleCount, (row + 1) * scaleCount), target * scaleCount);
      }
      tensor.numRowsLeft -= part.rowCount;
      if (tensor.numRowsLeft === 0) this.#finish(part.tensor, tensor);
    }
  }

  /** Of whole tensors names, facts and bytes. */
  *tensors(): Iterable<NamedTensor> {
    for (const tensors of this.#finished.values()) yield* tensors;
  }

  #finish(name: string, { formats, shape, codes, scales, range }: Pending): void {
    const { weights, activations } = formats;
    const { dtype } = weights;
    const scalesShape = [...shape.slice(0, -1), scaleColumns(weights, shape.at(-1)!)];
    const tensors: NamedTensor[] = [
      [name, { dtype, shape, quantized: formats }, { dtype, shape, bytes: encodeCodes(dtype, codes) }],
      floats(scaleTensorName(name), scalesShape, scales),
    ];
    if (activations?.isStatic) {
      tensors.push(
        floats(inputScaleTensorName(name), [1], Float32Array.of(scaleOf(range, activations.dtype))),
      );
    }
    this.#pending.delete(name);
    this.#finished.set(name, tensors);
  }

  #tensorOf(part: WeightPart, formats: ProductFormats): Pending {
    const known = this.#pending.get(part.tensor);
    if (known) return known;
    const [rows, columns] = part.tensorShape.slice(-2);
    const shape = part.transpose ? [...part.tensorShape.slice(0, -2), columns, rows] : part.tensorShape;
    const [numRows, numColumns] = asMatrix(shape);
    const tensor = {
      formats,
      shape,
      codes: new Float32Array(numRows * numColumns),
      scales: new Float32Array(numRows * scaleColumns(formats.weights, numColumns)),
      range: 0,
      numRowsLeft: numRows,
    };
    this.#pending.set(part.tensor, tensor);
    return tensor;
  }
}

/** Where row `i` of the part stands in the tensor, matrices of which lie one below the other. */
function storedRow(part: WeightPart, i: number): number {
  const row = part.rowStart + i * part.rowStep;
  if (!part.transpose) return row;
  const [matrixColumns, matrixRows] = part.tensorShape.slice(-2);
  return (part.columnStart / matrixColumns) * matrixRows + row;
}

function floats(name: string, shape: readonly number[], values: Float32Array): NamedTensor {
  const facts = { dtype: 'float32', shape } as const;
  return [name, facts, { ...facts, bytes: new Uint8Array(values.buffer) }];
}
