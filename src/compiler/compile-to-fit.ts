// From a user's settings to a plan that fits into memory: what `auto` and unset flags become.
import type { KernelDescription } from '../kernels/kernel.ts';
import type { HFConfig, ModelDefinition } from '../models/model-definition.ts';
import { isFloatDType, itemSize, type FloatDType, type KVCacheDType } from '../tensor/dtype.ts';
import {
  recipeDetails,
  type ActivationPrecision,
  type KVCacheSetting,
  type QuantizationSettings,
} from '../tensor/precision.ts';
import { scaleTensorName, type TensorCatalog } from '../tensor/tensor-source.ts';
import { describeFormat } from '../tensor/weight-format.ts';
import { NeedletailError } from '../util/errors.ts';
import { compile } from './compile.ts';
import { memoryLedger, type Ledger } from './ledger.ts';
import type { Plan, Target } from './plan.ts';
import { needsCalibration, publishedQuantization, quantizationRules } from './quantization-rules.ts';
import type { CompileRequest, QuantizationRules } from './request.ts';

/** The settings of an engine that its plan depends on; `EngineConfig` has them all. */
export interface PlanSettings extends QuantizationSettings {
  readonly dtype: 'auto' | FloatDType;
  readonly activationDType: ActivationPrecision;
  readonly batchInvariant?: boolean;
  /** null: the model's own context length, or less if its KV cache would not fit. */
  readonly maxModelLen: number | null;
  readonly maxNumSeqs: number;
  readonly maxNumBatchedTokens: number;
  readonly blockSize: number;
}

/** And those that its memory depends on. */
export interface MemorySettings {
  readonly kvCacheMemoryBytes: number | null;
  readonly memoryUtilization: number;
}

export interface ModelToCompile {
  readonly definition: ModelDefinition;
  readonly config: HFConfig;
  /** null: compile from the config alone. */
  readonly tensors: TensorCatalog | null;
  readonly checkpointHash: string | null;
}

export interface FittedPlan {
  readonly plan: Plan;
  readonly ledger: Ledger;
  /** The model's context length, if the plan's is shorter because that would not fit; otherwise null. */
  readonly shortenedFrom: number | null;
}

/** Logits of prompt tokens to be scored take at most so much of a step's memory. */
const MAX_PROMPT_LOGIT_BYTES = 64 * 2 ** 20;

export function compileRequestFor(
  model: ModelToCompile,
  settings: PlanSettings,
  target: Target,
  kernels: readonly KernelDescription[],
): CompileRequest {
  const { maxNumBatchedTokens, maxNumSeqs, blockSize, activationDType, batchInvariant = false } = settings;
  const { vocabSize, maxPositions } = model.definition.facts(model.config);
  const affordableRows = Math.floor(MAX_PROMPT_LOGIT_BYTES / (vocabSize * itemSize('float32')));
  const numPromptRows = Math.max(1, Math.min(maxNumBatchedTokens, affordableRows));
  const weightDType =
    settings.dtype === 'auto' ? publishedDType(model.config, model.tensors) : settings.dtype;
  const quantization = quantizationFor(settings, model.tensors);
  const kvDType = kvDTypeFor(settings.kvCacheDType, weightDType);
  return {
    ...model,
    target,
    recipe: { weightDType, quantization, kvDType, activationPrecision: activationDType, batchInvariant },
    // One row for the next token of each sequence, beside the prompt's.
    limits: { maxNumBatchedTokens, maxNumSeqs, maxNumLogitRows: numPromptRows + maxNumSeqs },
    blockSize,
    maxModelLen: settings.maxModelLen ?? maxPositions,
    kernels,
  };
}

export function kvDTypeFor(setting: KVCacheSetting, weightDType: FloatDType): KVCacheDType {
  if (setting === 'auto') return weightDType;
  return setting === 'fp8' ? 'float8_e4m3fn' : setting;
}

/** What the settings ask for, or what the checkpoint is already. */
function quantizationFor(settings: PlanSettings, tensors: TensorCatalog | null): QuantizationRules | null {
  const { quantization: name, quantizationGroupSize, quantizationKeep } = settings;
  const published = publishedQuantization(tensors);
  if (name === null) {
    const [detail] = recipeDetails(settings);
    if (detail !== undefined) throw refused(`${detail} is of no use without --quantization`);
    return published;
  }
  const rules = quantizationRules(name, quantizationGroupSize, quantizationKeep);
  if (published === null && tensors !== null && needsCalibration(name)) throw uncalibrated(name);
  if (published === null) return rules;
  const { dtype, groupSize } = published.weights;
  const isSame = dtype === rules.weights.dtype && (quantizationGroupSize ?? groupSize) === groupSize;
  if (isSame) return { ...published, name: rules.name };
  throw refused(
    `--quantization ${name}: this checkpoint is ${describeFormat(published.weights)} already; leave the flag out`,
  );
}

function uncalibrated(name: string): NeedletailError {
  return refused(
    `--quantization ${name} needs calibration: needletail build MODEL --quantization ${name} --calibration FILE ` +
      '--output DIR, then serve DIR; or take int8, int4 or fp8, which need none',
  );
}

function refused(message: string): NeedletailError {
  return new NeedletailError('invalid_request', message, { param: 'quantization' });
}

/**
 * Compile, and if no context length was asked for and not even one sequence of the model's own fits, compile for the
 * longest that does. `ledger.error` says what is wrong if nothing fits.
 */
export function compileToFit(
  model: ModelToCompile,
  settings: PlanSettings & MemorySettings,
  target: Target,
  kernels: readonly KernelDescription[],
  availableBytes: number,
): FittedPlan {
  const request = compileRequestFor(model, settings, target, kernels);
  const whole = compileWithin(request, settings, availableBytes);
  const { longestModelLen } = whole.ledger;
  if (whole.ledger.error === null || settings.maxModelLen !== null || longestModelLen === 0) {
    return { ...whole, shortenedFrom: null };
  }
  const shorter = compileWithin({ ...request, maxModelLen: longestModelLen }, settings, availableBytes);
  return { ...shorter, shortenedFrom: request.maxModelLen };
}

function compileWithin(
  request: CompileRequest,
  { kvCacheMemoryBytes, memoryUtilization }: MemorySettings,
  availableBytes: number,
): { plan: Plan; ledger: Ledger } {
  const plan = compile(request);
  const { maxNumSeqs } = request.limits;
  const { maxModelLen } = request;
  const budget = { availableBytes, kvCacheMemoryBytes, memoryUtilization, maxNumSeqs, maxModelLen };
  return { plan, ledger: memoryLedger(plan, budget) };
}

/** The type that most of the checkpoint's floats have; without a checkpoint what the config says it has. */
export function publishedDType(config: HFConfig, tensors: TensorCatalog | null): FloatDType {
  const counts = new Map<FloatDType, number>();
  const quantized = [...(tensors ?? [])].filter(([, facts]) => facts.quantized !== undefined);
  const scales = new Set(quantized.map(([name]) => scaleTensorName(name)));
  for (const [name, { dtype, shape }] of tensors ?? []) {
    if (!isFloatDType(dtype) || scales.has(name)) continue;
    counts.set(dtype, (counts.get(dtype) ?? 0) + shape.reduce((product, size) => product * size, 1));
  }
  const [most] = [...counts].sort(([, a], [, b]) => b - a);
  if (most) return most[0];
  const named = config['dtype'] ?? config['torch_dtype'];
  return typeof named === 'string' && isFloatDType(named) ? named : 'float32';
}
