// A float checkpoint and what was seen of its products' inputs become a checkpoint of codes, by one of the recipes that
// need such knowledge. Whoever calls it runs the model.
import { setImmediate } from 'node:timers/promises';
import type { Parameter } from '../ir/graph.ts';
import { quantizeRows, type QuantizedRows } from '../tensor/quantize-rows.ts';
import type { TensorCatalog, TensorFacts, TensorSource, TensorView } from '../tensor/tensor-source.ts';
import { CodeTensors } from './code-tensors.ts';
import { gptq, type GptqOptions } from './gptq.ts';
import type { InputStatistics } from './input-statistics.ts';
import { columnsOf, type GraphReader, type Product, type ProductFormats } from './products.ts';
import { searchRanges } from './range-search.ts';
import type { RangeKind } from './range-observers.ts';
import { AWQ_RULE, searchScales, smoothQuantRule, type ScaleRule } from './scale-search.ts';
import { ScaledWeights } from './scaled-weights.ts';
import { findScalingGroups } from './scaling-groups.ts';

export type CalibratedRecipe =
  | { readonly name: 'awq' }
  | { readonly name: 'gptq'; readonly options: GptqOptions }
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

export interface CalibrationHooks {
  /** Called with steps done and in all; `stage` is `scaling`, then `quantizing`. */
  readonly onProgress?: (done: number, total: number, stage: string) => void;
  readonly signal?: AbortSignal;
}

export interface CalibratedCheckpoint {
  readonly source: TensorSource;
  readonly catalog: TensorCatalog;
  /** Inputs of products that took factors, of all. */
  readonly numScaled: number;
}

/** Throws `bad_checkpoint` for weights that are not finite. */
export async function calibrate(
  subject: CalibrationSubject,
  recipe: CalibratedRecipe,
  statistics: CalibrationStatistics,
  hooks: CalibrationHooks = {},
): Promise<CalibratedCheckpoint> {
  const weights = new ScaledWeights(subject.source);
  const rule = scaleRuleOf(recipe);
  const numScaled = rule === null ? 0 : await foldScales(subject, rule, weights, statistics, hooks);
  const codes = new CodeTensors();
  for (const [i, product] of subject.products.entries()) {
    await pause(hooks);
    const input = statistics.get(product.node.inputs[0].id)!;
    codes.add(product.weight, subject.formats, quantizeWeight(product, recipe, weights, input), input.range);
    hooks.onProgress?.(i + 1, subject.products.length, 'quantizing');
  }
  return { ...checkpointOf(subject, weights, codes), numScaled };
}

/** What a recipe's statistics must hold beside the columns'. */
export function needsGram({ name }: CalibratedRecipe): boolean {
  return name === 'gptq';
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
  hooks: CalibrationHooks,
): Promise<number> {
  const groups = findScalingGroups(index, products);
  let numScaled = 0;
  for (const [i, group] of groups.entries()) {
    await pause(hooks);
    const factors = searchScales(group, statistics.get(group.input.id)!, weights, rule);
    if (factors !== null) weights.fold(group, factors);
    if (factors !== null) numScaled++;
    hooks.onProgress?.(i + 1, groups.length, 'scaling');
  }
  return numScaled;
}

function quantizeWeight(
  { weight, format }: Product,
  recipe: CalibratedRecipe,
  weights: ScaledWeights,
  input: InputStatistics,
): QuantizedRows {
  const values = weights.read(weight);
  const grouped = { ...format, groupSize: format.groupSize ?? columnsOf(weight) };
  switch (recipe.name) {
    case 'awq':
      return searchRanges(values, grouped, importanceOf(weight, weights, input));
    case 'gptq':
      return gptq(values, grouped, input.gram!, recipe.options);
    case 'smoothquant':
    case 'fp8':
      return quantizeRows(values, grouped);
  }
}

/** Mean squares of the input's columns as they are after scaling. */
function importanceOf(
  weight: Parameter,
  weights: ScaledWeights,
  { meanSquare }: InputStatistics,
): Float64Array {
  const factors = weights.columnFactors(weight);
  return meanSquare.map((square, column) => square / (factors?.[column] ?? 1) ** 2);
}

function checkpointOf(
  { source, catalog, products }: CalibrationSubject,
  weights: ScaledWeights,
  codes: CodeTensors,
): { source: TensorSource; catalog: TensorCatalog } {
  const views = new Map<string, TensorView>(
    weights.changedTensors(new Set(products.map(({ weight }) => weight))),
  );
  const facts = new Map<string, TensorFacts>(catalog);
  for (const [name, tensorFacts, view] of codes.tensors()) {
    facts.set(name, tensorFacts);
    views.set(name, view);
  }
  return {
    source: { read: (name) => views.get(name) ?? source.read(name), close: () => source.close() },
    catalog: facts,
  };
}

/** Others get their turn, Ctrl-C among them. */
async function pause({ signal }: CalibrationHooks): Promise<void> {
  await setImmediate();
  signal?.throwIfAborted();
}
