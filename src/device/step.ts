// One step in numbers: the ragged batch that a device runs, and what it gives back.
import { resolveDim, type Dim } from '../tensor/shape.ts';

/** Block table and slots of one cache group. */
export interface CacheGroupBatch {
  /** Slot of each token, `[numTokens]`: block × blockSize + offset. */
  readonly slotMapping: Int32Array;
  /** `[numSeqs, maxBlocksPerSeq]`, rows padded with 0. */
  readonly blockTables: Int32Array;
  readonly maxBlocksPerSeq: number;
}

/**
 * Prefill chunks and decodes, flattened. Sequence `s` owns the tokens `[cuSeqlensQ[s], cuSeqlensQ[s + 1])`; after the
 * step its cache holds `contextLens[s]` tokens, of which these are the last.
 */
export interface StepBatch {
  readonly numTokens: number;
  readonly numSeqs: number;
  /** `[numTokens]`; −1 − r is the token that row r of the step before draws, for devices that have two steps in flight. */
  readonly tokenIds: Int32Array;
  readonly positions: Int32Array; // [numTokens]
  readonly cuSeqlensQ: Int32Array; // [numSeqs + 1]
  readonly contextLens: Int32Array; // [numSeqs]
  readonly groups: readonly CacheGroupBatch[];
  /** Tokens whose logits are wanted, ascending, `[numLogitRows]`; one stands here as often as choices go on from it. */
  readonly logitRows: Int32Array;
  /** Whole blocks to copy before anything else, as (group, source, destination) triples, one after the other: copy on write. */
  readonly blockCopies: Int32Array;
  /** One request per logit row, in their order. */
  readonly sampling: SamplingBatch;
  /** Also give back the raw logits (tests and evaluation). */
  readonly returnLogits: boolean;
}

/**
 * What to do with each logit row, as arrays of `numLogitRows` elements. The raw logits' log-softmax is what
 * log-probabilities are taken from; then, in this order: `logitBias` is added (−Infinity bans a token), repetition,
 * presence and frequency penalties follow from the history, the result is divided by the temperature, cut by top-k,
 * top-p and min-p, and one token is drawn by inverse CDF in order of falling probability (ties: lower id first) with
 * the uniform number that `device/reference/uniform.ts` defines from seed and position. Temperature 0 takes the largest (ties:
 * lower id).
 */
export interface SamplingBatch {
  /** −1: sample. Otherwise score this token: give its log-probability and rank (prompt log-probabilities). */
  readonly targetIds: Int32Array;
  readonly temperature: Float32Array;
  /** 0: off. */
  readonly topK: Int32Array;
  /** 1: off. */
  readonly topP: Float32Array;
  /** 0: off. */
  readonly minP: Float32Array;
  /** 1: off. Applies to prompt and output tokens. */
  readonly repetitionPenalty: Float32Array;
  /** 0: off. Apply to output tokens. */
  readonly presencePenalty: Float32Array;
  readonly frequencyPenalty: Float32Array;
  /** Two halves of a 64-bit seed. */
  readonly seedLow: Uint32Array;
  readonly seedHigh: Uint32Array;
  /** Index in its sequence of the token to be drawn. */
  readonly position: Uint32Array;
  /** −1: no log-probabilities; n ≥ 0: the chosen token's and the n most likely ones'. */
  readonly numLogprobs: Int32Array;
  /** Row r's biases are the entries `[biasOffsets[r], biasOffsets[r + 1])`. */
  readonly biasOffsets: Int32Array; // [numLogitRows + 1]
  readonly biasIds: Int32Array;
  readonly biasValues: Float32Array;
  /** Row r's distinct tokens so far, likewise; only for rows with a penalty. */
  readonly historyOffsets: Int32Array; // [numLogitRows + 1]
  readonly historyIds: Int32Array;
  /** How often the token stands in the output (0: in the prompt alone). */
  readonly historyOutputCounts: Int32Array;
}

export interface StepResult {
  /** The sampled token of each logit row, or its target. */
  readonly tokenIds: Int32Array; // [numLogitRows]
  /** Log-probability of that token; NaN where none was asked for. */
  readonly logprobs: Float32Array; // [numLogitRows]
  /** 1 for the most likely token; 0 where no log-probabilities were asked for. */
  readonly ranks: Int32Array; // [numLogitRows]
  /** Columns of the two arrays below: the largest `numLogprobs` of the batch. */
  readonly topCount: number;
  readonly topIds: Int32Array; // [numLogitRows, topCount], −1 beyond a row's own number
  readonly topLogprobs: Float32Array; // [numLogitRows, topCount]
  /** Rows whose logits held NaN (1) or no token that may be drawn (2); 0 is well. */
  readonly rowStatus: Uint8Array; // [numLogitRows]
  /** `[numLogitRows, vocabSize]` if asked for. */
  readonly logits: Float32Array | null;
  /** Of a plan with further outputs what these hold, by name: `[rows, columns]` in float32. */
  readonly outputs?: ReadonlyMap<string, Float32Array>;
}

/** Rows that a dimension of a plan's buffer has in this step. */
export function rowsOf(dim: Dim, { numTokens, numSeqs, logitRows }: StepBatch): number {
  return resolveDim(dim, { numTokens, numSeqs, numLogitRows: logitRows.length });
}
