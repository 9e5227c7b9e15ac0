// The settings of an engine, as flags and the library give them, with their defaults in one place.
import type { FloatDType } from '../tensor/dtype.ts';

export type SchedulingPolicy = 'fcfs' | 'priority';
/**
 * `max-utilization` admits what fits now and preempts the youngest when blocks run out; `guaranteed-no-evict` admits
 * only what can run to its end; `static` runs a batch until its longest member ends (for comparison only), keeping
 * finished rows or (`static-drop-finished`) dropping them.
 */
export type BatchingPolicy = 'max-utilization' | 'guaranteed-no-evict' | 'static' | 'static-drop-finished';

export interface EngineConfig {
  /** A checkpoint folder, a plan directory, a hub id `org/name[@revision]`, or a preset (with `loadFormat: 'dummy'`). */
  readonly model: string;
  /** Modules whose exported model definitions are known beside the built-in ones and before them: paths or `file:` URLs. */
  readonly modelDefinitions: readonly string[];
  readonly device: 'auto' | 'cpu' | 'cuda' | 'reference';
  readonly dtype: 'auto' | FloatDType;
  /** `float32` forbids kernels that round activations to the weights' 16-bit type. */
  readonly activationDType: 'auto' | 'float32';
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
  activationDType: 'auto',
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
