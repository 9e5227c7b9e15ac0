// From a float checkpoint and a text to a checkpoint of codes: has the model read the text on the cpu, looks at what its
// products read, and lets a recipe make codes of their weights.
import { findProducts } from '../compiler/find-products.ts';
import { GraphIndex } from '../compiler/graph-index.ts';
import { bindTensors } from '../compiler/passes/bind-tensors.ts';
import { quantizationRules } from '../compiler/quantization-rules.ts';
import type { QuantizationRules } from '../compiler/request.ts';
import type { EngineConfig } from '../engine/config.ts';
import { loadExecutable, type LoadHooks } from '../engine/load-engine.ts';
import { checkpointTensors, type ModelSubject } from '../engine/subject.ts';
import {
  calibrate,
  needsGram,
  type CalibratedCheckpoint,
  type CalibratedRecipe,
  type CalibrationStatistics,
  type CalibrationSubject,
} from '../quantization/calibrate.ts';
import { storableProducts } from '../quantization/code-tensors.ts';
import { InputObserver } from '../quantization/input-statistics.ts';
import { inputsOf, type ProductFormats, type ProductInput } from '../quantization/products.ts';
import { NO_QUANTIZATION } from '../tensor/precision.ts';
import { NeedletailError } from '../util/errors.ts';
import { observingDefinition, outputName } from './observing-definition.ts';
import { readEvaluationText } from './read-text.ts';
import { tokenWindows, type TokenWindow } from './token-windows.ts';
import { windowSteps } from './window-steps.ts';

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

/** Tokens that one step reads, and a window at most: what products read is kept for all of a step's tokens. */
const [STEP_TOKENS, MAX_WINDOW] = [256, 2048];

/** Rows of each input that searches try candidates on. */
const SAMPLE_SIZE = 512;

/**
 * Throws `invalid_request` for a text that is too short, a checkpoint that is quantized already, rules that leave nothing
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
  const { maxPositions } = definition.facts(hfConfig);
  const windowLen = Math.min(config.maxModelLen ?? maxPositions, maxPositions, MAX_WINDOW);
  const windows = await readWindows(file, checkpoint.directory, windowLen, numTokens);
  const { subject: calibrated, numLeft } = subjectOf(subject, config, recipe);
  const statistics = await observe(subject, config, inputsOf(calibrated.products), windows, recipe, hooks);
  const result = await calibrate(calibrated, recipe, statistics, hooks);
  return { ...result, numTokens: countTokens(windows), numLeft };
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

/** What the float model's products read while it reads the windows, on the cpu. */
async function observe(
  subject: ModelSubject,
  config: EngineConfig,
  inputs: readonly ProductInput[],
  windows: readonly TokenWindow[],
  recipe: CalibratedRecipe,
  { onProgress, signal }: CalibrationProgress,
): Promise<CalibrationStatistics> {
  const windowLen = Math.max(...windows.map(({ tokenIds }) => tokenIds.length));
  const floats: EngineConfig = {
    ...config,
    ...NO_QUANTIZATION,
    device: config.device === 'reference' ? 'reference' : 'cpu',
    maxNumSeqs: 1,
    maxModelLen: windowLen,
    maxNumBatchedTokens: STEP_TOKENS,
    batchInvariant: false,
  };
  const model = await loadExecutable(floats, {
    models: [observingDefinition(subject.model.definition, inputs)],
    ...(signal && { signal }),
  });
  const observers = createObservers(inputs, countTokens(windows), recipe);
  try {
    for (const [i, { tokenIds }] of windows.entries()) {
      for (const step of windowSteps(tokenIds, model.plan, STEP_TOKENS)) {
        signal?.throwIfAborted();
        const { outputs } = await model.executable.run({ ...step, returnLogits: false });
        for (const [id, observer] of observers) observer.add(outputs!.get(outputName(id))!);
      }
      onProgress?.(i + 1, windows.length, 'reading');
    }
  } finally {
    await model.close();
  }
  return new Map([...observers].map(([id, observer]) => [id, observer.statistics()]));
}

function createObservers(
  inputs: readonly ProductInput[],
  numTokens: number,
  recipe: CalibratedRecipe,
): ReadonlyMap<number, InputObserver> {
  return new Map(
    inputs.map(({ value, columns }) => {
      const numRows = (numTokens * (value.type.shape[1] as number)) / columns;
      const range = recipe.name === 'fp8' ? recipe.range : 'absmax';
      const options = { columns, numRows, sampleSize: SAMPLE_SIZE, hasGram: needsGram(recipe), range };
      return [value.id, new InputObserver(options)];
    }),
  );
}

function countTokens(windows: readonly TokenWindow[]): number {
  return windows.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0);
}

function refused(message: string): NeedletailError {
  return new NeedletailError('invalid_request', message, { param: 'quantization' });
}
