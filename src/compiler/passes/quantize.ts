// Applies a recipe of smaller numbers: weights become codes and scales, and where the recipe says so what meets them
// does too. Which weights those are, and what becomes of each, `find-products.ts` decides.
import type { Graph, Node, Parameter, ParameterQuantization, Value, WeightPart } from '../../ir/graph.ts';
import { inputScaleTensorName, scaleTensorName } from '../../tensor/tensor-source.ts';
import { scaleColumns, type WeightFormat } from '../../tensor/weight-format.ts';
import { findProducts, type QuantizedInput, type QuantizedProduct } from '../find-products.ts';
import { GraphIndex } from '../graph-index.ts';
import { opOf } from '../op-of.ts';
import type { CompileRequest } from '../request.ts';

export function quantize(
  graph: Graph,
  request: Pick<CompileRequest, 'recipe' | 'target' | 'tensors'>,
): Graph {
  const index = new GraphIndex(graph);
  const products = findProducts(index, request);
  return products.length === 0 ? graph : new Rewrite(index, products).run();
}

interface CodesAndScales {
  readonly codes: Value;
  readonly scales: Value;
}

class Rewrite {
  readonly #index: GraphIndex;
  readonly #products: ReadonlyMap<Node, QuantizedProduct>;
  readonly #parameters: Parameter[] = [];
  /** By the id of the weight that they replace. */
  readonly #weights = new Map<number, CodesAndScales>();
  /** By what `inputKey` tells apart. */
  readonly #inputs = new Map<string, CodesAndScales>();
  /** Inputs in another order, by their id and the order's tensor. */
  readonly #ordered = new Map<string, Value>();
  /** By the tensor's name. */
  readonly #orders = new Map<string, Value>();

  constructor(index: GraphIndex, products: readonly QuantizedProduct[]) {
    this.#index = index;
    this.#products = new Map(products.map((product) => [product.node, product]));
  }

  run(): Graph {
    const { graph } = this.#index;
    const replaced = new Set([...this.#products.values()].map(({ weight }) => weight));
    const nodes = graph.nodes.flatMap((node) => {
      const product = this.#products.get(node);
      return product ? this.#rewrite(product) : [node];
    });
    const floats = graph.parameters.filter((parameter) => !replaced.has(parameter));
    return { ...graph, parameters: [...floats, ...this.#parameters], nodes };
  }

  #rewrite(product: QuantizedProduct): readonly Node[] {
    const { node, format, input } = product;
    const { quantizedForms, matrixInput } = opOf(node);
    const { weightOnly, product: ofCodes } = quantizedForms!;
    const { codes, scales } = this.#weightOf(product);
    const added: Node[] = [];
    const x = this.#orderedInput(product, added);
    const weightAndRest = [codes, scales, ...node.inputs.slice(matrixInput! + 1)];
    const { dtype: weightDType, hasZeros } = format;
    const groupSize = format.groupSize ?? (codes.type.shape[1] as number);
    const attributes = { ...node.attributes, weightDType, groupSize, hasZeros };
    if (input === null)
      return [...added, { ...node, op: weightOnly, inputs: [x, ...weightAndRest], attributes }];
    const quantized = this.#inputOf(product, x, input, added);
    const rewritten: Node = {
      ...node,
      op: ofCodes,
      inputs: [quantized.codes, quantized.scales, ...weightAndRest],
      attributes: { ...attributes, xGroupSize: input.groupSize },
    };
    return [...added, rewritten];
  }

  #weightOf({ weight, format, origin }: QuantizedProduct): CodesAndScales {
    const known = this.#weights.get(weight.value.id);
    if (known) return known;
    const { name, value, parts } = weight;
    const [rows, columns] = value.type.shape as readonly [number, number];
    const scaleParts = origin === 'quantize' ? parts : parts.map((part) => scalesOf(part, format));
    const codesAndScales = {
      codes: this.#add(weight, name, [rows, columns], parts, { format, holds: 'codes', origin }),
      scales: this.#add(weight, scaleTensorName(name), [rows, scaleColumns(format, columns)], scaleParts, {
        format,
        holds: 'scales',
        origin,
      }),
    };
    this.#weights.set(value.id, codesAndScales);
    return codesAndScales;
  }

  /** The product's input in codes: products of one input share them. */
  #inputOf({ node }: QuantizedProduct, x: Value, input: QuantizedInput, added: Node[]): CodesAndScales {
    const key = inputKey(x, input);
    const known = this.#inputs.get(key);
    if (known) return known;
    const { dtype, groupSize } = input;
    const [rows, columns] = x.type.shape as readonly [Node['outputs'][0]['type']['shape'][0], number];
    const codes = this.#index.newValue(`${x.name}.codes`, { dtype, shape: [rows, columns] });
    const scales = this.#index.newValue(`${x.name}.scales`, {
      dtype: 'float32',
      shape: [rows, columns / groupSize],
    });
    const staticScales = input.isStatic ? [this.#staticScales(inputKey(node.inputs[0], input))] : [];
    added.push({
      op: 'quantize',
      label: node.label,
      inputs: [x, ...staticScales],
      outputs: [codes, scales],
      attributes: { dtype, groupSize },
    });
    this.#inputs.set(key, { codes, scales });
    return { codes, scales };
  }

  /** The product's input with its columns where the codes have them: products of one order share it. */
  #orderedInput({ node, weight, format, inputOrder }: QuantizedProduct, added: Node[]): Value {
    const [x] = node.inputs;
    if (inputOrder === null) return x;
    const key = `${x.id} ${inputOrder}`;
    const known = this.#ordered.get(key);
    if (known) return known;
    const ordered = this.#index.newValue(`${x.name}.ordered`, x.type);
    const order = this.#orders.get(inputOrder) ?? this.#addOrder(inputOrder, weight, format);
    added.push({
      op: 'permuteColumns',
      label: node.label,
      inputs: [x, order],
      outputs: [ordered],
      attributes: {},
    });
    this.#ordered.set(key, ordered);
    return ordered;
  }

  #addOrder(tensor: string, weight: Parameter, format: WeightFormat): Value {
    const columns = weight.value.type.shape[1] as number;
    const place = { rowStart: 0, rowCount: columns, rowStep: 1, columnStart: 0, columnCount: 1 };
    const part = { name: tensor, tensor, tensorShape: [columns], transpose: false, ...place };
    const quantization = { format, holds: 'inputOrder', origin: 'checkpoint' } as const;
    const order = this.#add(weight, tensor, [columns], [part], quantization);
    this.#orders.set(tensor, order);
    return order;
  }

  /** The calibrated scales of every product that shares the input; the largest of them serves all. */
  #staticScales(key: string): Value {
    const sharers = [...this.#products.values()].filter(
      ({ node, input }) => input !== null && inputKey(node.inputs[0], input) === key,
    );
    const tensors = sharers.flatMap(({ weight }) => weight.parts.map((part) => part.tensor));
    const parts = [...new Set(tensors.map(inputScaleTensorName))].map(inputScalePart);
    const [{ weight, format }] = sharers;
    const quantization = { format, holds: 'inputScales', origin: 'checkpoint' } as const;
    return this.#add(weight, inputScaleTensorName(weight.name), [parts.length], parts, quantization);
  }

  #add(
    { shard }: Parameter,
    name: string,
    shape: readonly number[],
    parts: readonly WeightPart[],
    quantization: ParameterQuantization,
  ): Value {
    const dtype = quantization.holds === 'codes' ? quantization.format.dtype : 'float32';
    const value = this.#index.newValue(name, { dtype, shape });
    this.#parameters.push({ name, value, parts, shard, quantization });
    return value;
  }
}

function inputKey(x: Value, { dtype, groupSize, isStatic }: QuantizedInput): string {
  return [x.id, dtype, groupSize, isStatic].join(' ');
}

/** Where the scales of a part's codes stand in the checkpoint. */
function scalesOf(part: WeightPart, format: WeightFormat): WeightPart {
  const columns = part.tensorShape.at(-1)!;
  const scalesBefore = (column: number): number => (column / columns) * scaleColumns(format, columns);
  return {
    ...part,
    name: scaleTensorName(part.name),
    tensor: scaleTensorName(part.tensor),
    tensorShape: [...part.tensorShape.slice(0, -1), scaleColumns(format, columns)],
    columnStart: scalesBefore(part.columnStart),
    columnCount: scaleColumns(format, part.columnCount),
  };
}

function inputScalePart(tensor: string): WeightPart {
  const place = { rowStart: 0, rowCount: 1, rowStep: 1, columnStart: 0, columnCount: 1 };
  return { name: tensor, tensor, tensorShape: [1], transpose: false, ...place };
}
