// A model with random weights on the GPU, as a plan alone or as an engine: a preset, or what a config.json describes.
import {
  compileToFit,
  type FittedPlan,
  type MemorySettings,
  type PlanSettings,
} from '../../compiler/compile-to-fit.ts';
import type { CudaDevice } from '../../device/cuda/cuda-device.ts';
import type { Executable } from '../../device/device.ts';
import { DEFAULT_ENGINE_CONFIG, type EngineConfig } from '../../engine/config.ts';
import type { LLMEngine } from '../../engine/llm-engine.ts';
import { loadEngine } from '../../engine/load-engine.ts';
import { findSubject, modelToLoad, openTensors, type ModelSubject } from '../../engine/subject.ts';
import { CUDA_KERNELS } from '../../kernels/cuda/index.ts';
import type { FloatDType } from '../../tensor/dtype.ts';
import { NO_QUANTIZATION, type KVCacheSetting, type Quantization } from '../../tensor/precision.ts';
import { NeedletailError } from '../../util/errors.ts';

const MEMORY_UTILIZATION = 0.95;

/** What may change from run to run. */
export interface ModelChoice {
  /** Its name, or a config.json's path. */
  readonly preset: string;
  readonly dtype: FloatDType;
  readonly quantization: Quantization | null;
  readonly kvCacheDType: KVCacheSetting;
  readonly batchInvariant?: boolean;
}

type Limits = Pick<PlanSettings, 'maxNumSeqs' | 'maxNumBatchedTokens' | 'maxModelLen'>;

/** Where weights alone matter. */
export const SMALL_LIMITS: Limits = { maxNumSeqs: 1, maxNumBatchedTokens: 16, maxModelLen: 16 };

export function planSettings(
  { dtype, quantization, kvCacheDType, batchInvariant = false }: ModelChoice,
  limits: Limits,
): PlanSettings & MemorySettings {
  return {
    ...limits,
    dtype,
    activationDType: 'auto',
    ...NO_QUANTIZATION,
    quantization,
    kvCacheDType,
    batchInvariant,
    blockSize: DEFAULT_ENGINE_CONFIG.blockSize,
    kvCacheMemoryBytes: null,
    memoryUtilization: MEMORY_UTILIZATION,
  };
}

export async function compilePreset(
  device: CudaDevice,
  choice: ModelChoice,
  limits: Limits,
): Promise<FittedPlan> {
  return compileSubject(device, await presetSubject(choice), choice, limits);
}

function compileSubject(
  device: CudaDevice,
  subject: ModelSubject,
  choice: ModelChoice,
  limits: Limits,
): FittedPlan {
  const settings = { ...planSettings(choice, limits), loadFormat: 'dummy' } as const;
  const model = modelToLoad(subject, settings, device.target, CUDA_KERNELS);
  const fitted = compileToFit(model, settings, device.target, CUDA_KERNELS, device.availableMemory());
  if (fitted.ledger.error !== null) throw new NeedletailError('out_of_memory', fitted.ledger.error);
  return fitted;
}

export async function presetSubject({ preset }: ModelChoice): Promise<ModelSubject> {
  const subject = await findSubject({ model: preset, modelDefinitions: [] });
  if (subject.kind === 'model') return subject;
  throw new NeedletailError('invalid_request', `${preset} is a plan; name a preset or a config.json`);
}

export async function loadPreset(
  device: CudaDevice,
  choice: ModelChoice,
  limits: Limits,
): Promise<Executable> {
  const subject = await presetSubject(choice);
  const { plan, ledger } = compileSubject(device, subject, choice, limits);
  const source = openTensors(subject, plan, { loadFormat: 'dummy', seed: 0 });
  return device.load(plan, source, { numBlocks: ledger.numBlocks });
}

export function loadPresetEngine(
  device: CudaDevice,
  { preset, dtype, quantization, kvCacheDType }: ModelChoice,
  settings: Partial<EngineConfig>,
): Promise<LLMEngine> {
  const config: EngineConfig = {
    ...DEFAULT_ENGINE_CONFIG,
    model: preset,
    device: 'cuda',
    loadFormat: 'dummy',
    dtype,
    quantization,
    kvCacheDType,
    memoryUtilization: MEMORY_UTILIZATION,
    enablePrefixCaching: false,
    maxNumQueuedReqs: 2 ** 20,
    ...settings,
  };
  return loadEngine(config, { device });
}
