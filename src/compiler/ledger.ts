// The memory ledger: every byte that a plan and its KV cache will take, which sequences fit, and what to do if none does.
import { explainShortage } from './ledger-error.ts';
import {
  blocksPerSeq,
  bytesPerBlock,
  cacheRoom,
  fixedBytes,
  sumBytes,
  type CacheLine,
  type Ledger,
  type MemoryBudget,
} from './memory-budget.ts';
import type { KVCacheGroup, Plan } from './plan.ts';

export type { CacheLine, Ledger, MemoryBudget } from './memory-budget.ts';

/**
 * Every line is exact: the device's own count must equal it. The cache takes what the budget leaves, but never more
 * than `maxNumSeqs` sequences of `maxModelLen` tokens could use. Groups get equally many blocks, for a sequence holds
 * as many in each.
 */
export function memoryLedger(plan: Plan, budget: MemoryBudget): Ledger {
  const fixed = fixedBytes(plan);
  const affordable = Math.max(0, Math.floor(cacheRoom(fixed, budget) / bytesPerBlock(plan)));
  const usable = budget.maxNumSeqs * blocksPerSeq(plan, budget.maxModelLen);
  const numBlocks = Math.min(affordable, usable);
  const caches = plan.kvCacheGroups.map((group) => cacheLine(group, plan.blockSize, numBlocks));
  const kvCacheBytes = sumBytes(caches);
  const ledger = {
    budget,
    ...fixed,
    caches,
    kvCacheBytes,
    totalBytes: fixed.fixedBytes + kvCacheBytes,
    numBlocks: caches.map((cache) => cache.numBlocks),
    numCacheTokens: numBlocks * plan.blockSize,
    fits: fittingSequences(plan, budget, numBlocks),
    longestModelLen: Math.min(budget.maxModelLen, affordable * plan.blockSize),
  };
  return { ...ledger, error: explainShortage(plan, ledger) };
}

function cacheLine(group: KVCacheGroup, blockSize: number, numBlocks: number): CacheLine {
  const bytesPerBlock = group.bytesPerToken * blockSize;
  return {
    group: group.index,
    numLayers: group.layers.length,
    window: group.window,
    bytesPerToken: group.bytesPerToken,
    bytesPerBlock,
    numBlocks,
    bytes: numBlocks * bytesPerBlock,
  };
}

/** At the full context length and at fractions of it. */
function fittingSequences(plan: Plan, budget: MemoryBudget, numBlocks: number): Ledger['fits'] {
  const lengths = [1, 2, 4, 16].map((divisor) => Math.ceil(budget.maxModelLen / divisor));
  return [...new Set(lengths)].map((length) => ({
    length,
    numSeqs: Math.min(budget.maxNumSeqs, Math.floor(numBlocks / blocksPerSeq(plan, length))),
  }));
}
