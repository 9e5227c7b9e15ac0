// The ledger's terms: what is budgeted, what is counted, and the arithmetic that both the ledger and its error use.
import { stepBytes } from '../kernels/cuda/step-layout.ts';
import type { Plan } from './plan.ts';

export interface MemoryBudget {
  /** Bytes that the device offers for weights, cache and activations together. */
  readonly availableBytes: number;
  /** Bytes for the KV cache; null: what the fixed parts leave of `memoryUtilization` of the available bytes. */
  readonly kvCacheMemoryBytes: number | null;
  readonly memoryUtilization: number;
  readonly maxNumSeqs: number;
  readonly maxModelLen: number;
}

/** What a plan takes before any KV cache. */
export interface FixedBytes {
  readonly weightBytes: number;
  readonly ropeTableBytes: number;
  readonly activationBytes: number;
  readonly workspaceBytes: number;
  /** Arrays of steps; 0 where the device reads them from the host's memory. */
  readonly stepBytes: number;
  /** The five above together. */
  readonly fixedBytes: number;
}

/** One group's share of the KV cache. */
export interface CacheLine {
  readonly group: number;
  readonly numLayers: number;
  readonly window: number | null;
  readonly bytesPerToken: number;
  readonly bytesPerBlock: number;
  readonly numBlocks: number;
  readonly bytes: number;
}

export interface Ledger extends FixedBytes {
  readonly budget: MemoryBudget;
  readonly caches: readonly CacheLine[];
  readonly kvCacheBytes: number;
  readonly totalBytes: number;
  /** Blocks per group, as `Device.load` wants them. */
  readonly numBlocks: readonly number[];
  /** Tokens that the cache holds. */
  readonly numCacheTokens: number;
  /** How many sequences of a length run at once, longest first. */
  readonly fits: readonly { readonly length: number; readonly numSeqs: number }[];
  /** The longest context that would fit under this budget, at most its `maxModelLen`; 0 if none. */
  readonly longestModelLen: number;
  /** Null if all is well; otherwise the ledger and the flags to change, ready to print. */
  readonly error: string | null;
}

export function fixedBytes(plan: Plan): FixedBytes {
  const parts = {
    weightBytes: sumBytes(plan.weights),
    ropeTableBytes: sumBytes(plan.ropeTables),
    activationBytes: plan.arenaBytes,
    workspaceBytes: plan.workspaceBytes,
    stepBytes: plan.header.target.kind === 'cuda' ? stepBytes(plan) : 0,
  };
  return { ...parts, fixedBytes: Object.values(parts).reduce((sum, bytes) => sum + bytes, 0) };
}

/** Bytes that may go to the cache; negative if the fixed parts alone are too large. */
export function cacheRoom(fixed: FixedBytes, budget: MemoryBudget): number {
  if (budget.kvCacheMemoryBytes !== null) return budget.kvCacheMemoryBytes;
  return Math.floor(budget.availableBytes * budget.memoryUtilization) - fixed.fixedBytes;
}

/** Bytes of one block in every group together: what `blockSize` tokens of a sequence take. */
export function bytesPerBlock(plan: Plan): number {
  return plan.kvCacheGroups.reduce((sum, group) => sum + group.bytesPerToken * plan.blockSize, 0);
}

export function blocksPerSeq(plan: Plan, length: number): number {
  return Math.ceil(length / plan.blockSize);
}

export function sumBytes(items: readonly { readonly bytes: number }[]): number {
  return items.reduce((sum, item) => sum + item.bytes, 0);
}
