// A float checkpoint and what was seen of its products' inputs become a checkpoint of codes, by one of the recipes that
// need such knowledge. Whoever calls it runs the model.
import { setImmediate } from 'node:timers/promises';
import type { Parameter } from '../ir/graph.ts';
import type { CalibrationMath } from '../tensor/calibration-math.ts';
import { quantizeRows, type QuantizedRows } from '../tensor/quantize-rows.ts';
import type { TensorCatalog, TensorFacts, TensorSource, TensorView } from '../tensor/tensor-source.ts';
import { grouped } from '../tensor/weight-format.ts';
import { NeedletailError } from '../util/errors.ts';
import { CodeTensors } from './code-tensors.ts';
import { factorCholesky, type CholeskyFactor } from './cholesky.ts';
import { makeUpForDrift, type DriftStatistics } from './drift.ts';
import { gptq, GPTQ_OPTIONS, prepareGptq, type GptqInput, type GptqOptions } from './gptq.ts';
import { damped, diagonalOf } from './gram.ts';
import type { InputStatistics } from './input-statistics.ts';
import { columnsOf, type GraphReader, type Product, type ProductFormats } from './products.ts';
import { searchRanges } from './range-search.ts';
import type { RangeKind } from './range-observers.ts';
import { AWQ_RULE, searchScales, smoothQuantRule, type ScaleRule } from './scale-search.ts';
import { ScaledWeights } from './scaled-weights.ts';
import { findScalingGroups } from './scaling-groups.ts';
import { stagesOf, type StageDrift } from './stages.ts';

/** Recipes of 4 bits: for each of at most so many stages the model reads the text on, from where the last one ended. */
export type StagedRecipe = { readonly maxNumStages: number } & (
  { readonly name: 'awq' } | { readonly name: 'gptq'; readonly options: GptqOptions }
);

export type CalibratedRecipe =
  | StagedRecipe
  /** `alpha`: null searches for it, group by group. */
  | { readonly name: 'smoothquant'; readonly alpha: number | null }
  /** Activations get one scale for a whole tensor, made for the `range` that was seen. */
  | { readonly name: 'fp8'; readonly range: RangeKind };

export interface CalibrationSubject {
  /** The model's graph, bound to the tensors of `source`. */
  readonly index: GraphReader;
  readonly products: readonly Product[];
  readonly formats: ProductFormats;
  readonly source: TensorSource;
  readonly catalog: TensorCatalog;
}

/** By the id of the value that products read. */
export type CalibrationStatistics = ReadonlyMap<number, InputStatistics>;

/** A checkpoint as far as it is calibrated. */
export interface Tensors {
  readonly source: TensorSource;
  readonly catalog: TensorCatalog;
}

/** Whoever calibrates has the model read a text, as often as a recipe wants to know what its products read. */
export interface TextReader {
  /** Of the float model. */
  readStatistics(): Promise<CalibrationStatistics>;
  /**
   * Of the products of one stage, in a model of which all before is quantized, beside the same model in floats. Stages come
   * in their order, each once, and `floats` has the same weights for all.
   */
  readDrift(stage: readonly Product[], floats: Tensors, quantized: Tensors): Promise<StageDrift>;
  readonly math: CalibrationMath;
}

export interface CalibrationHooks {
  /** Called with steps done and in all; `stage` is `scaling`, then `quantizing`. */
  readonly onProgress?: (done: number, total: number, stage: string) => void;
  readonly signal?: AbortSignal;
}

export interface CalibratedCheckpoint extends Tensors {
  /** Inputs of products that took factors, of all. */
  readonly numScaled: number;
}

/** Throws `bad_checkpoint` for weights that are not finite, and for models that compute what is not. */
export async function calibrate(
  subject: CalibrationSubject,
  recipe: CalibratedRecipe,
  reader: TextReader,
  hooks: CalibrationHooks = {},
): Promise<CalibratedCheckpoint> {
  const weights = new ScaledWeights(subject.source);
  const statistics = recipe.name === 'gptq' ? null : await reader.readStatistics();
  if (statistics !== null) checkInputs(subject.products, statistics);
  const rule = scaleRuleOf(recipe);
  const numScaled =
    rule === null ? 0 : await foldScales(subject, rule, weights, statistics!, reader.math, hooks);
  const codes =
    recipe.name === 'awq' || recipe.name === 'gptq'
      ? await quantizeInStages(subject, recipe, weights, reader, hooks)
      : await quantizeAtOnce(subject, weights, statistics!, hooks);
  return { ...tensorsOf(subject, weights, codes), numScaled };
}

function checkInputs(products: readonly Product[], statistics: CalibrationStatistics): void {
  for (const { node, weight } of products) {
    const { meanAbs } = statistics.get(node.inputs[0].id)!;
    if (!meanAbs.every(Number.isFinite)) throw inputsNotFinite(weight);
  }
}

function scaleRuleOf(recipe: CalibratedRecipe): ScaleRule | null {
  if (recipe.name === 'awq') return AWQ_RULE;
  return recipe.name === 'smoothquant' ? smoothQuantRule(recipe.alpha) : null;
}

async function foldScales(
  { index, products }: CalibrationSubject,
  rule: ScaleRule,
  weights: ScaledWeights,
  statistics: CalibrationStatistics,
  { addProduct }: CalibrationMath,
  hooks: CalibrationHooks,
): Promise<number> {
  const groups = findScalingGroups(index, products);
  let numScaled = 0;
  for (const [i, group] of groups.entries()) {
    await pause(hooks);
    const input = statistics.get(group.input.id)!;
    const factors = await searchScales(group, input, weights, rule, addProduct);
    if (factors !== null) weights.fold(group, factors);
    if (factors !== null) numScaled++;
    hooks.onProgress?.(i + 1, groups.length, 'scaling');
  }
  return numScaled;
}

/** Plain rounding, for static activations with the range that was seen. */
async function quantizeAtOnce(
  { products, formats }: CalibrationSubject,
  weights: ScaledWeights,
  statistics: CalibrationStatistics,
  hooks: CalibrationHooks,
): Promise<CodeTensors> {
  const codes = new CodeTensors();
  for (const [i, { node, weight, format }] of products.entries()) {
    await pause(hooks);
    const { range } = statistics.get(node.inputs[0].id)!;
    const made = quantizeRows(weights.read(weight), grouped(format, columnsOf(weight)));
    codes.add(weight, formats, made, range);
    hooks.onProgress?.(i + 1, products.length, 'quantizing');
  }
  return codes;
}

/**
 * From the first layers to the last, as GPTQ does it: weights are chosen for what their products will read from the
 * quantized ones before them.
 */
async function quantizeInStages(
  subject: CalibrationSubject,
  recipe: StagedRecipe,
  weights: ScaledWeights,
  reader: TextReader,
  hooks: CalibrationHooks,
): Promise<CodeTensors> {
  const { products, formats } = subject;
  const codes = new CodeTensors();
  const floats = tensorsOf(subject, weights, codes);
  let numDone = 0;
  for (const stage of stagesOf(products, recipe.maxNumStages)) {
    const { inputs, residuals } = await reader.readDrift(stage, floats, tensorsOf(subject, weights, codes));
    for (const [input, readers] of byInput(stage)) {
      const knowledge = await learn(inputs.get(input)!, recipe, reader.math, readers[0]);
      for (const product of readers) {
        await pause(hooks);
        const values = weights.read(product.weight);
        const residual = residuals.get(product) ?? null;
        codes.add(
          product.weight,
          formats,
          await quantizeProduct(product, values, knowledge, residual, reader.math),
          0,
        );
        hooks.onProgress?.(++numDone, products.length, 'quantizing');
      }
    }
  }
  return codes;
}

/** By the id of the value that they read. */
function byInput(products: readonly Product[]): ReadonlyMap<number, readonly Product[]> {
  const readers = new Map<number, Product[]>();
  for (const product of products) {
    const [{ id }] = product.node.inputs;
    readers.set(id, [...(readers.get(id) ?? []), product]);
  }
  return readers;
}

/** What all products of an input need to know of it. */
interface InputKnowledge {
  readonly gram: Float32Array;
  /** null where no drift is made up for. */
  readonly drift: { readonly values: Float32Array; readonly factor: CholeskyFactor } | null;
  /** null where codes are rounded to the nearest. */
  readonly gptq: GptqInput | null;
}

async function learn(
  { gram, drift }: DriftStatistics,
  recipe: StagedRecipe,
  { addProduct }: CalibrationMath,
  { weight }: Product,
): Promise<InputKnowledge> {
  if (!diagonalOf(gram).every(Number.isFinite)) throw inputsNotFinite(weight);
  const factored = () => factorCholesky(damped(gram, GPTQ_OPTIONS.damping), columnsOf(weight), addProduct);
  return {
    gram,
    drift: drift === null ? null : { values: drift, factor: await factored() },
    gptq: recipe.name === 'gptq' ? await prepareGptq(gram, recipe.options, addProduct) : null,
  };
}

async function quantizeProduct(
  { weight, format }: Product,
  values: Float32Array,
  input: InputKnowledge,
  residual: Float32Array | null,
  math: CalibrationMath,
): Promise<QuantizedRows> {
  const groupSize = format.groupSize ?? columnsOf(weight);
  const aimedAt =
    input.drift === null
      ? values
      : await makeUpForDrift(values, input.drift.values, input.drift.factor, residual, math.addProduct);
  return input.gptq === null
    ? searchRanges(aimedAt, groupSize, input.gram, math)
    : gptq(aimedAt, groupSize, input.gptq, math);
}

/** The float checkpoint with factors in its weights, and codes in the place of those that have some. */
function tensorsOf(
  { source, catalog, products }: CalibrationSubject,
  weights: ScaledWeights,
  codes: CodeTensors,
): Tensors {
  const quantized = new Set(products.map(({ weight }) => weight).filter((weight) => codes.has(weight)));
  const changed = weights.changedTensors(quantized);
  const views = new Map<string, TensorView>();
  const facts = new Map<string, TensorFacts>(catalog);
  for (const [name, tensorFacts, view] of codes.tensors()) {
    facts.set(name, tensorFacts);
    views.set(name, view);
  }
  return {
    source: {
      read: (name) => views.get(name) ?? changed.get(name)?.() ?? source.read(name),
      close: () => source.close(),
    },
    catalog: facts,
  };
}

/** Others get their turn, Ctrl-C among them. */
async function pause({ signal }: CalibrationHooks): Promise<void> {
  await setImmediate();
  signal?.throwIfAborted();
}

function inputsNotFinite({ name }: Parameter): NeedletailError {
  return new NeedletailError(
    'bad_checkpoint',
    `what ${name} is multiplied with is NaN or infinite: a weight before it is damaged, or ` +
      "the model's type is too narrow for it",
  );
}
