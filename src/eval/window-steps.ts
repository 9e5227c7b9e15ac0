// The steps in which a model reads one window: as many tokens at once as its plan allows, the logits of each wanted.
import type { Plan } from '../compiler/plan.ts';
import type { SamplingBatch, StepBatch } from '../device/step.ts';

/** Steps of at most `chunkLen` tokens that compute a whole window, in order; the sequence has the first blocks of every group. */
export function windowSteps(tokenIds: Int32Array, plan: Plan, chunkLen: number): readonly StepBatch[] {
  const numChunks = Math.ceil(tokenIds.length / chunkLen);
  return Array.from({ length: numChunks }, (_, i) =>
    windowStep(tokenIds, i * chunkLen, Math.min((i + 1) * chunkLen, tokenIds.length), plan),
  );
}

/** The same for a model whose logits nobody wants. */
export function readingSteps(tokenIds: Int32Array, plan: Plan, chunkLen: number): readonly StepBatch[] {
  const logits = { logitRows: Int32Array.of(0), sampling: scoring(Int32Array.of(0)), returnLogits: false };
  return windowSteps(tokenIds, plan, chunkLen).map((step) => ({ ...step, ...logits }));
}

/** Tokens of a step whose logits a plan can give back all at once. */
export function largestChunk({ limits }: Plan): number {
  return Math.min(limits.maxNumBatchedTokens, limits.maxNumLogitRows);
}

function windowStep(tokenIds: Int32Array, start: number, end: number, plan: Plan): StepBatch {
  const numTokens = end - start;
  const positions = Int32Array.from({ length: numTokens }, (_, i) => start + i);
  const numBlocks = Math.ceil(tokenIds.length / plan.blockSize);
  // Block b of the sequence is block b of the cache, so that slots are positions.
  const group = {
    slotMapping: positions,
    blockTables: Int32Array.from({ length: numBlocks }, (_, i) => i),
    maxBlocksPerSeq: numBlocks,
  };
  return {
    numTokens,
    numSeqs: 1,
    tokenIds: tokenIds.slice(start, end),
    positions,
    cuSeqlensQ: Int32Array.of(0, numTokens),
    contextLens: Int32Array.of(end),
    groups: plan.kvCacheGroups.map(() => group),
    logitRows: Int32Array.from({ length: numTokens }, (_, i) => i),
    blockCopies: new Int32Array(0),
    // The token after each; the last of the window has none.
    sampling: scoring(Int32Array.from({ length: numTokens }, (_, i) => tokenIds[start + i + 1] ?? 0)),
    returnLogits: true,
  };
}

/** Score these tokens: nothing is drawn. */
function scoring(targetIds: Int32Array): SamplingBatch {
  const { length } = targetIds;
  return {
    targetIds,
    temperature: new Float32Array(length),
    topK: new Int32Array(length),
    topP: new Float32Array(length).fill(1),
    minP: new Float32Array(length),
    repetitionPenalty: new Float32Array(length).fill(1),
    presencePenalty: new Float32Array(length),
    frequencyPenalty: new Float32Array(length),
    seedLow: new Uint32Array(length),
    seedHigh: new Uint32Array(length),
    position: new Uint32Array(length),
    numLogprobs: new Int32Array(length),
    biasOffsets: new Int32Array(length + 1),
    biasIds: new Int32Array(0),
    biasValues: new Float32Array(0),
    historyOffsets: new Int32Array(length + 1),
    historyIds: new Int32Array(0),
    historyOutputCounts: new Int32Array(0),
  };
}
