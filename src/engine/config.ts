// The settings of an engine, as flags and the library give them, with their defaults in one place.
import type { FloatDType } from '../tensor/dtype.ts';
import { NO_QUANTIZATION, type ActivationPrecision, type QuantizationSettings } from '../tensor/precision.ts';

export type SchedulingPolicy = 'fcfs' | 'priority';
/**
 * `max-utilization` admits what fits now and preempts the youngest when blocks run out; `guaranteed-no-evict` admits
 * only what can run to its end; `static` runs a batch until its longest member ends (for comparison only), keeping
 * finished rows or (`static-drop-finished`) dropping them.
 */
export type BatchingPolicy = 'max-utilization' | 'guaranteed-no-evict' | 'static' | 'static-drop-finished';

export interface EngineConfig extends QuantizationSettings {
  /** A checkpoint folder, a plan directory, a hub id `org/name[@revision]`, or a preset (with `loadFormat: 'dummy'`). */
  readonly model: string;
  /** Modules whose exported model definitions are known beside the built-in ones and before them: paths or `file:` URLs. */
  readonly modelDefinitions: readonly string[];
  readonly device: 'auto' | 'cpu' | 'cuda' | 'reference';
  readonly dtype: 'auto' | FloatDType;
  /** `16bit` forbids kernels that quantize activations, `float32` those that round them at all. */
  readonly activationDType: ActivationPrecision;
  /** Logits do not depend, bit for bit, on what else is in a step: slower kernels of a fixed order. Not on the cpu. */
  readonly batchInvariant: boolean;
  readonly loadFormat: 'auto' | 'dummy';
  /** null: the checkpoint's own context length, or less if its KV cache would not fit. */
  readonly maxModelLen: number | null;
  readonly maxNumSeqs: number;
  /** Token budget of a step. */
  readonly maxNumBatchedTokens: number;
  readonly blockSize: number;
  /** Bytes for the KV cache; null: what is left of `memoryUtilization` of the device's memory. */
  readonly kvCacheMemoryBytes: number | null;
  readonly memoryUtilization: number;
  readonly enablePrefixCaching: boolean;
  readonly schedulingPolicy: SchedulingPolicy;
  readonly batchingPolicy: BatchingPolicy;
  /** Waiting requests at most; more are refused with `queue_full`. */
  readonly maxNumQueuedReqs: number;
  /** Threads of the cpu device; null: one per core that this process may use. */
  readonly numThreads: number | null;
  /** For requests that name no seed. */
  readonly seed: number;
}

export const DEFAULT_ENGINE_CONFIG: Omit<EngineConfig, 'model'> = {
  modelDefinitions: [],
  device: 'auto',
  dtype: 'auto',
  ...NO_QUANTIZATION,
  activationDType: 'auto',
  batchInvariant: false,
  loadFormat: 'auto',
  maxModelLen: null,
  maxNumSeqs: 64,
  maxNumBatchedTokens: 512,
  blockSize: 16,
  kvCacheMemoryBytes: null,
  memoryUtilization: 0.5,
  enablePrefixCaching: true,
  schedulingPolicy: 'fcfs',
  batchingPolicy: 'max-utilization',
  maxNumQueuedReqs: 1024,
  numThreads: null,
  seed: 0,
};
