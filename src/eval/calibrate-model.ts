// From a float checkpoint and a text to a checkpoint of codes: has the model read the text, looks at what its
// products read, and lets a recipe make codes of their weights.
import { findProducts } from '../compiler/find-products.ts';
import { GraphIndex } from '../compiler/graph-index.ts';
import { bindTensors } from '../compiler/passes/bind-tensors.ts';
import { quantizationRules } from '../compiler/quantization-rules.ts';
import type { QuantizationRules } from '../compiler/request.ts';
import type { EngineConfig } from '../engine/config.ts';
import type { LoadHooks } from '../engine/load-engine.ts';
import { checkpointTensors, type ModelSubject } from '../engine/subject.ts';
import {
  calibrate,
  type CalibratedCheckpoint,
  type CalibratedRecipe,
  type CalibrationSubject,
} from '../quantization/calibrate.ts';
import { storableProducts } from '../quantization/code-tensors.ts';
import type { ProductFormats } from '../quantization/products.ts';
import { NeedletailError } from '../util/errors.ts';
import { CalibrationReader } from './calibration-reader.ts';
import { readEvaluationText } from './read-text.ts';
import { checkVocabulary, tokenWindows, type TokenWindow } from './token-windows.ts';

export interface CalibrationRequest {
  readonly recipe: CalibratedRecipe;
  /** Text, or a .json array of token ids. */
  readonly file: string;
  /** null: as many as the text has, up to a default. */
  readonly numTokens: number | null;
}

export interface CalibrationProgress extends Pick<LoadHooks, 'signal'> {
  /** Steps done and in all of what `stage` names: `reading`, `scaling`, `quantizing`. */
  readonly onProgress?: (done: number, total: number, stage: string) => void;
}

export interface CalibratedModel extends CalibratedCheckpoint {
  readonly numTokens: number;
  /** Weights that the recipe names but that stay floats, because their tensors cannot hold codes. */
  readonly numLeft: number;
}

/** Without `numTokens` a text must have the first number of tokens, and no more than the second are read. */
const [LEAST_TOKENS, DEFAULT_TOKENS] = [4096, 16384];

/** Tokens of a window, at most. */
const MAX_WINDOW = 2048;

/**
 * Throws `invalid_request` for a text that is too short or of another vocabulary, a checkpoint that is quantized already, rules that leave nothing
 * to quantize, and group sizes that do not fit; `bad_checkpoint` for weights that are not finite.
 */
export async function calibrateModel(
  subject: ModelSubject,
  config: EngineConfig,
  { recipe, file, numTokens }: CalibrationRequest,
  hooks: CalibrationProgress = {},
): Promise<CalibratedModel> {
  const { checkpoint, model, whyNone } = subject;
  if (checkpoint === null) throw whyNone!;
  const { definition, config: hfConfig } = model;
  const { maxPositions, vocabSize } = definition.facts(hfConfig);
  const windowLen = Math.min(config.maxModelLen ?? maxPositions, maxPositions, MAX_WINDOW);
  const windows = await readWindows(file, checkpoint.directory, windowLen, numTokens);
  checkVocabulary(windows, vocabSize);
  const { subject: calibrated, numLeft } = subjectOf(subject, config, recipe);
  const reader = await CalibrationReader.open({
    model,
    subject: calibrated,
    config,
    windows,
    range: recipe.name === 'fp8' ? recipe.range : 'absmax',
    onProgress: (done, total) => hooks.onProgress?.(done, total, 'reading'),
    ...(hooks.signal && { signal: hooks.signal }),
  });
  try {
    const result = await calibrate(calibrated, recipe, reader, hooks);
    return { ...result, numTokens: countTokens(windows), numLeft };
  } finally {
    await reader.close();
  }
}

async function readWindows(
  file: string,
  directory: string,
  windowLen: number,
  numTokens: number | null,
): Promise<readonly TokenWindow[]> {
  const { tokenIds, bosTokenId } = await readEvaluationText(file, directory);
  const needed = numTokens ?? LEAST_TOKENS;
  if (tokenIds.length < needed) {
    throw new NeedletailError(
      'invalid_request',
      `${file} has ${tokenIds.length} tokens, and calibration needs ${needed}: take a longer text` +
        (numTokens === null ? '' : ', or a smaller --calibration-tokens'),
      { param: 'calibration' },
    );
  }
  const taken = tokenIds.subarray(0, numTokens ?? DEFAULT_TOKENS);
  return tokenWindows(taken, { windowLen, stride: windowLen, bosTokenId });
}

function subjectOf(
  subject: ModelSubject,
  config: EngineConfig,
  recipe: CalibratedRecipe,
): { subject: CalibrationSubject; numLeft: number } {
  const { definition, config: hfConfig, tensors } = subject.model;
  if ([...(tensors?.values() ?? [])].some(({ quantized }) => quantized)) {
    throw refused('this checkpoint is quantized already; calibrate the one that it was made from');
  }
  const rules = calibratedRules(recipe, config);
  const { maxPositions } = definition.facts(hfConfig);
  const built = definition.buildGraph(hfConfig, { kvDType: 'float32', maxModelLen: maxPositions });
  const index = new GraphIndex(bindTensors(built, subject.model));
  const request = {
    recipe: {
      weightDType: 'float32',
      quantization: rules,
      kvDType: 'float32',
      activationPrecision: 'auto',
    },
    target: { kind: 'reference', arch: '' },
    tensors,
  } as const;
  const wanted = findProducts(index, request);
  const products = storableProducts(index.graph, wanted);
  if (products.length === 0) throw refused('--quantization-keep leaves no weight to quantize');
  const formats: ProductFormats = { weights: rules.weights, activations: rules.activations };
  const source = checkpointTensors(subject);
  return {
    subject: { index, products, formats, source, catalog: tensors! },
    numLeft: wanted.length - products.length,
  };
}

function calibratedRules(recipe: CalibratedRecipe, config: EngineConfig): QuantizationRules {
  const rules = quantizationRules(recipe.name, config.quantizationGroupSize, config.quantizationKeep);
  const { activations } = rules;
  if (recipe.name !== 'fp8' || activations === null) return rules;
  return { ...rules, activations: { ...activations, isStatic: true } };
}

function countTokens(windows: readonly TokenWindow[]): number {
  return windows.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0);
}

function refused(message: string): NeedletailError {
  return new NeedletailError('invalid_request', message, { param: 'quantization' });
}
