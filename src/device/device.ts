// The narrow interface between a plan and a machine that runs it.
import type { Plan, Target } from '../compiler/plan.ts';
import type { PackedWeightSource, TensorSource } from '../tensor/tensor-source.ts';
import type { StepBatch, StepResult } from './step.ts';

export interface LoadOptions {
  /** Blocks of each cache group, from the ledger. */
  readonly numBlocks: readonly number[];
  /** Called with bytes done and bytes in all. */
  readonly onProgress?: (loadedBytes: number, totalBytes: number) => void;
  readonly signal?: AbortSignal;
}

/** Bytes that an executable really holds, line for line what the ledger predicted. */
export interface DeviceMemory {
  /** Packed weights and rope tables. */
  readonly weights: number;
  readonly kvCache: number;
  readonly activations: number;
  readonly workspace: number;
  /** Arrays of steps, where they lie apart from the host's memory. */
  readonly steps: number;
}

export interface Device {
  readonly target: Target;
  /** For people: `2 threads, avx512-bf16`. */
  readonly description: string;
  /** Bytes that weights, cache and activations may take together. */
  availableMemory(): number;
  /** Packs the plan's weights from a checkpoint's tensors, or takes them packed from a plan directory (`'readPacked' in source`). */
  load(plan: Plan, source: TensorSource | PackedWeightSource, options: LoadOptions): Promise<Executable>;
  dispose(): Promise<void>;
}

/** A loaded plan. Steps run one after the other, in the order of the calls; the event loop never waits for them. */
export interface Executable {
  readonly plan: Plan;
  readonly memory: DeviceMemory;
  /** Calls of `run` that may be waited for at once. If more than one, a step may start from tokens that the step before it draws. */
  readonly maxStepsInFlight: number;
  /**
   * The step has been read when the call returns. Rejects with `DeviceError` if the device failed; the executable is then
   * unusable.
   */
  run(step: StepBatch): Promise<StepResult>;
  /** Waits for running steps, then frees everything. */
  dispose(): Promise<void>;
}

export class DeviceError extends Error {
  override readonly name = 'DeviceError';
}
