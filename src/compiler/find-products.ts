// Which products of a graph a recipe of smaller numbers concerns, and what their weights and inputs become.
import type { Node, Parameter, ParameterQuantization, Value } from '../ir/graph.ts';
import type { QuantizedFacts, TensorFacts } from '../tensor/tensor-source.ts';
import {
  describeFormat,
  largestGroupSize,
  type ActivationFormat,
  type WeightFormat,
} from '../tensor/weight-format.ts';
import { NeedletailError } from '../util/errors.ts';
import type { GraphIndex } from './graph-index.ts';
import { opOf } from './op-of.ts';
import type { CompileRequest, QuantizationRules } from './request.ts';

/** How the input of a product is written, its groups known. */
export type QuantizedInput = ActivationFormat & { readonly groupSize: number };

export interface QuantizedProduct {
  readonly node: Node;
  readonly weight: Parameter;
  readonly format: WeightFormat;
  readonly origin: ParameterQuantization['origin'];
  /** null: its input stays as it is. */
  readonly input: QuantizedInput | null;
  /** The tensor that says which column of the input each column of the codes meets; null: its own. */
  readonly inputOrder: string | null;
}

type Request = Pick<CompileRequest, 'recipe' | 'target' | 'tensors'>;
type Formats = Pick<QuantizationRules, 'weights' | 'activations'>;

/**
 * Columns of activations that share a scale where the cpu quantizes them of its own accord. A scale for each token costs
 * nearly twice the quality; groups of 64 save a quarter of what is left, for products that take 12 % longer instead of 6.
 */
const ACTIVATION_GROUP = 128;
/** Products of smaller groups spend more time on scales than on codes. */
const LEAST_ACTIVATION_GROUP = 32;

/** First compute capability that multiplies 8-bit floats. */
const FLOAT8_COMPUTE_CAPABILITY = 89;

/**
 * Weights that the checkpoint holds as codes, and others that the recipe's rules name. Throws `invalid_request` where the
 * rules do not fit the model or the target, `bad_checkpoint` for codes in a place that only floats fit.
 */
export function findProducts(index: GraphIndex, request: Request): readonly QuantizedProduct[] {
  const { quantization } = request.recipe;
  const candidates = index.graph.nodes.flatMap((node) => candidateOf(node, index, request));
  checkCodesAreUsed(index, candidates, request);
  if (quantization) checkPatterns(quantization, index);
  const products = candidates.flatMap((candidate) => productOf(candidate, index, request));
  if (quantization && products.length === 0)
    refuse('quantizationKeep', '--quantization-keep leaves no weight to quantize');
  checkGroups(products);
  return products;
}

interface Candidate {
  readonly node: Node;
  readonly weight: Parameter;
  /** What the checkpoint says of it; null for floats. */
  readonly stored: QuantizedFacts | null;
}

/** A product whose weight no other kind of op reads: a table that embeddings look up as well stays as it is. */
function candidateOf(node: Node, index: GraphIndex, { tensors }: Request): readonly Candidate[] {
  const { quantizedForms, matrixInput } = opOf(node);
  const weight = quantizedForms === null ? null : index.parameter(node.inputs[matrixInput!]);
  if (weight === null) return [];
  const isShared = index.users(weight.value).some((user) => opOf(user).quantizedForms === null);
  return isShared ? [] : [{ node, weight, stored: storedFormats(weight, tensors) }];
}

function storedFormats({ name, parts }: Parameter, tensors: Request['tensors']): QuantizedFacts | null {
  const facts = parts.map((part) => tensors?.get(part.tensor)?.quantized ?? null);
  const [first] = facts;
  if (facts.every((other) => JSON.stringify(other) === JSON.stringify(first))) return first;
  throw new NeedletailError(
    'bad_checkpoint',
    `the parts of ${name} are quantized in different ways, which one product cannot take`,
  );
}

function checkCodesAreUsed(index: GraphIndex, candidates: readonly Candidate[], { tensors }: Request): void {
  const expected = new Set(candidates.filter(({ stored }) => stored).map(({ weight }) => weight));
  for (const parameter of index.graph.parameters) {
    const isCodes = parameter.parts.some((part) => isQuantized(tensors?.get(part.tensor)));
    const isRead = index.users(parameter.value).length > 0;
    if (!isCodes || !isRead || expected.has(parameter)) continue;
    throw new NeedletailError(
      'unsupported_model',
      `${parameter.name} is quantized in this checkpoint, but is no weight of a product here: only floats can be used`,
    );
  }
}

function isQuantized(facts: TensorFacts | undefined): boolean {
  return facts?.quantized !== undefined;
}

function productOf(
  { node, weight, stored }: Candidate,
  index: GraphIndex,
  { recipe, target }: Request,
): readonly QuantizedProduct[] {
  const rules = recipe.quantization;
  const isKept = rules === null || rules.keep.some((pattern) => names(pattern, node, weight, index));
  const formats = stored ?? (isKept ? null : rules);
  if (formats === null) return [];
  const { weights: format } = formats;
  const origin = stored ? 'checkpoint' : 'quantize';
  const columns = columnsOf(weight);
  const activations = activationsFor(formats, columns, recipe, target);
  const input = activations && { ...activations, groupSize: activations.groupSize ?? columns };
  const inputOrder = stored?.inputOrder ?? null;
  if (inputOrder !== null) checkOrder(node, weight);
  return [{ node, weight, format, origin, input, inputOrder }];
}

/** An order is one of all columns: of a part of them, or where experts read columns of their own, it means nothing. */
function checkOrder(node: Node, weight: Parameter): void {
  const width = node.inputs[0].type.shape[1];
  const isWhole = weight.parts.every(({ columnCount, tensorShape }) => columnCount === tensorShape.at(-1));
  if (isWhole && width === columnsOf(weight)) return;
  throw new NeedletailError(
    'unsupported_model',
    `the columns of ${weight.name} were quantized in an order of their own (desc_act, actorder), which cannot be used where ` +
      'only some of them are read; take a checkpoint made without, or the original with --quantization',
  );
}

/** What becomes of activations: what the format says, and on the cpu whatever its fast products of whole numbers want. */
function activationsFor(
  { weights, activations }: Formats,
  columns: number,
  { activationPrecision }: Request['recipe'],
  { kind, arch }: Request['target'],
): ActivationFormat | null {
  if (activationPrecision !== 'auto') return null;
  if (activations?.dtype === 'float8_e4m3fn' && kind === 'cuda') checkFloat8Products(arch);
  const isWhole = weights.dtype !== 'float8_e4m3fn';
  if (activations !== null || kind !== 'cpu' || !isWhole) return activations;
  return { dtype: 'int8', groupSize: activationGroup(weights.groupSize ?? columns), isStatic: false };
}

/** Columns of activations that share a scale, where columns of the weight do so in groups of `weightGroup`. */
function activationGroup(weightGroup: number): number {
  const divisor = commonDivisor(weightGroup, ACTIVATION_GROUP);
  return divisor < LEAST_ACTIVATION_GROUP ? weightGroup : divisor;
}

function checkFloat8Products(arch: string): void {
  if (Number(arch.replace('sm_', '')) >= FLOAT8_COMPUTE_CAPABILITY) return;
  refuse(
    'quantization',
    `--quantization fp8 multiplies 8-bit floats, which ${arch} cannot (sm_${FLOAT8_COMPUTE_CAPABILITY} and newer can): ` +
      'take --quantization int8, or keep activations in 16 bits with --activation-dtype 16bit',
  );
}

/** Roles that patterns may name beside parameters: what makes the logits, and what chooses experts. */
const ROLES: Readonly<Record<string, (node: Node, index: GraphIndex) => boolean>> = {
  lm_head: (node, index) => leadsToOutput(node.outputs[0], index),
  router: (node, index) =>
    index.users(node.outputs[0]).some((user) => user.outputs.some(({ type }) => type.dtype === 'int32')),
};

function leadsToOutput(value: Value, index: GraphIndex): boolean {
  if (index.isOutput(value)) return true;
  const users = index.users(value);
  return (
    users.length > 0 &&
    users.every((user) => opOf(user).isElementwise && leadsToOutput(user.outputs[0], index))
  );
}

function names(pattern: string, node: Node, weight: Parameter, index: GraphIndex): boolean {
  return ROLES[pattern]?.(node, index) ?? matches(pattern, weight.name);
}

/** `*` is any text; the rest stands for itself. */
function matches(pattern: string, name: string): boolean {
  const [first, ...rest] = pattern.split('*');
  if (rest.length === 0) return name === pattern;
  if (!name.startsWith(first)) return false;
  let at = first.length;
  for (const piece of rest.slice(0, -1)) {
    const found = name.indexOf(piece, at);
    if (found < 0) return false;
    at = found + piece.length;
  }
  return name.length - at >= rest.at(-1)!.length && name.endsWith(rest.at(-1)!);
}

/** A pattern that names nothing was meant for something else. */
function checkPatterns({ keep }: QuantizationRules, { graph }: GraphIndex): void {
  const useless = keep.find(
    (pattern) => !(pattern in ROLES) && !graph.parameters.some(({ name }) => matches(pattern, name)),
  );
  if (useless === undefined) return;
  const example = graph.parameters.find(({ value }) => value.type.shape.length === 2)?.name ?? '';
  refuse('quantizationKeep', `--quantization-keep ${useless} names no weight; one is called ${example}`);
}

/** Groups must fill a row, or this rank's columns of it; and two codes of `uint4` share a byte. */
function checkGroups(products: readonly QuantizedProduct[]): void {
  for (const { weight, format, origin, input } of products) {
    const columns = columnsOf(weight);
    const sizes = [
      format.groupSize ?? columns,
      input?.groupSize ?? columns,
      format.dtype === 'uint4' ? 2 : 1,
    ];
    if (sizes.every((size) => columns % size === 0)) continue;
    const remedy =
      origin === 'checkpoint'
        ? 'this checkpoint was quantized for another shape'
        : `the largest groups that fit every weight are --quantization-group-size ${largestFitting(products)}`;
    refuse(
      'quantizationGroupSize',
      `${describeFormat(format)} does not fit the ${columns} columns of ${weight.name}: ${remedy}`,
    );
  }
}

function largestFitting(products: readonly QuantizedProduct[]): number {
  const common = products.map(({ weight }) => columnsOf(weight)).reduce(commonDivisor);
  return largestGroupSize(common, products[0].format.groupSize ?? common);
}

function commonDivisor(a: number, b: number): number {
  return b === 0 ? a : commonDivisor(b, a % b);
}

function columnsOf({ value }: Parameter): number {
  return value.type.shape[1] as number;
}

function refuse(param: string, message: string): never {
  throw new NeedletailError('invalid_request', message, { param });
}
