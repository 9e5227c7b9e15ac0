// The oracle of sampling: what every device must choose, given equal logits. Plain float64 arithmetic, one row at a time.
import type { SamplingBatch, StepResult } from '../step.ts';
import { uniform } from './uniform.ts';

/** Values of `StepResult.rowStatus`. */
const WELL = 0;
const NO_SOFTMAX = 1; // NaN, +Infinity, or nothing but −Infinity
const NOTHING_TO_DRAW = 2;

export type SampleResult = Omit<StepResult, 'logits'>;

/**
 * Choose or score one token per row of `logits` `[numLogitRows, vocabSize]`, as `SamplingBatch` documents.
 *
 * Where it leaves room, this is the rule. Penalties: a token of the history with logit x gets x / repetition if x > 0,
 * else x · repetition; then presence (if it stands in the output) and frequency · count are subtracted. Top-k: the k
 * largest. Top-p: the shortest prefix, in order of falling probability, whose share of the top-k's mass reaches p.
 * Min-p: at least p times the probability of the most likely token. The draw takes the first token whose cumulative
 * mass exceeds u times the mass that is left. Ranks and top log-probabilities rank equal logits by id, lower first.
 * A row of status 1 or 2 gives token 0, log-probability NaN and rank 0. Scoring ignores all of this but the raw logits.
 */
export function sampleLogits(logits: Float32Array, vocabSize: number, sampling: SamplingBatch): SampleResult {
  const numRows = sampling.targetIds.length;
  const topCount = sampling.numLogprobs.reduce((most, count) => Math.max(most, count), 0);
  const result = emptyResult(numRows, topCount);
  for (let row = 0; row < numRows; row++) {
    const raw = logits.subarray(row * vocabSize, (row + 1) * vocabSize);
    const logNormalizer = logSumExp(raw);
    if (!Number.isFinite(logNormalizer)) {
      result.rowStatus[row] = NO_SOFTMAX;
      continue;
    }
    const target = sampling.targetIds[row];
    const token = target >= 0 ? target : chooseToken(raw, row, sampling);
    if (token === null) {
      result.rowStatus[row] = NOTHING_TO_DRAW;
      continue;
    }
    result.tokenIds[row] = token;
    if (sampling.numLogprobs[row] >= 0) {
      reportLogprobs(result, row, raw, logNormalizer, sampling.numLogprobs[row]);
    }
  }
  return result;
}

function emptyResult(numRows: number, topCount: number): SampleResult {
  return {
    tokenIds: new Int32Array(numRows),
    logprobs: new Float32Array(numRows).fill(NaN),
    ranks: new Int32Array(numRows),
    topCount,
    topIds: new Int32Array(numRows * topCount).fill(-1),
    topLogprobs: new Float32Array(numRows * topCount).fill(NaN),
    rowStatus: new Uint8Array(numRows).fill(WELL),
  };
}

function logSumExp(values: Float32Array): number {
  const largest = max(values);
  let sum = 0;
  for (const value of values) sum += Math.exp(value - largest);
  return largest + Math.log(sum);
}

function max(values: Float32Array | Float64Array): number {
  let largest = -Infinity;
  for (const value of values) if (value > largest) largest = value;
  return largest;
}

/** The row's token, or null if every token is banned. */
function chooseToken(raw: Float32Array, row: number, sampling: SamplingBatch): number | null {
  const logits = Float64Array.from(raw);
  addBias(logits, row, sampling);
  penalize(logits, row, sampling);
  const largest = max(logits);
  if (largest === -Infinity) return null;
  if (sampling.temperature[row] === 0) return logits.indexOf(largest);
  const temperature = sampling.temperature[row];
  const weights = logits.map((logit) => Math.exp((logit - largest) / temperature)); // the largest is 1
  const candidates = cut(rankDescending(logits), weights, row, sampling);
  return draw(
    candidates,
    weights,
    uniform(sampling.seedLow[row], sampling.seedHigh[row], sampling.position[row]),
  );
}

function addBias(logits: Float64Array, row: number, sampling: SamplingBatch): void {
  for (let i = sampling.biasOffsets[row]; i < sampling.biasOffsets[row + 1]; i++) {
    logits[sampling.biasIds[i]] += sampling.biasValues[i];
  }
}

function penalize(logits: Float64Array, row: number, sampling: SamplingBatch): void {
  const repetition = sampling.repetitionPenalty[row];
  for (let i = sampling.historyOffsets[row]; i < sampling.historyOffsets[row + 1]; i++) {
    const id = sampling.historyIds[i];
    const count = sampling.historyOutputCounts[i];
    const logit = logits[id];
    const repeated = logit > 0 ? logit / repetition : logit * repetition;
    const presence = count > 0 ? sampling.presencePenalty[row] : 0;
    logits[id] = repeated - presence - sampling.frequencyPenalty[row] * count;
  }
}

/** Ids by falling logit, equal ones by rising id. */
function rankDescending(logits: Float32Array | Float64Array): Int32Array {
  return Int32Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a] || a - b);
}

/** The prefix of `ranked` that top-k, top-p and min-p leave; never empty. `weights` are unnormalised probabilities. */
function cut(ranked: Int32Array, weights: Float64Array, row: number, sampling: SamplingBatch): Int32Array {
  const topK = sampling.topK[row];
  const kept = topK > 0 ? ranked.subarray(0, topK) : ranked;
  const wantedMass = sampling.topP[row] < 1 ? sampling.topP[row] * massOf(kept, weights) : Infinity;
  const leastWeight = sampling.minP[row] * weights[ranked[0]];
  let numKept = 0;
  for (let mass = 0; numKept < kept.length && mass < wantedMass; numKept++) {
    const weight = weights[kept[numKept]];
    if (weight < leastWeight) break;
    mass += weight;
  }
  return kept.subarray(0, Math.max(1, numKept));
}

function massOf(ids: Int32Array, weights: Float64Array): number {
  let mass = 0;
  for (const id of ids) mass += weights[id];
  return mass;
}

/** Inverse CDF over `candidates`; a token of probability zero is never drawn. */
function draw(candidates: Int32Array, weights: Float64Array, u: number): number {
  const wanted = u * massOf(candidates, weights);
  let mass = 0;
  for (const id of candidates) {
    mass += weights[id];
    if (mass > wanted) return id;
  }
  return candidates[0];
}

function reportLogprobs(
  result: SampleResult,
  row: number,
  raw: Float32Array,
  logNormalizer: number,
  count: number,
): void {
  const token = result.tokenIds[row];
  result.logprobs[row] = raw[token] - logNormalizer;
  result.ranks[row] = rankOf(raw, token);
  const top = count > 0 ? rankDescending(raw).subarray(0, count) : [];
  top.forEach((id, i) => {
    result.topIds[row * result.topCount + i] = id;
    result.topLogprobs[row * result.topCount + i] = raw[id] - logNormalizer;
  });
}

function rankOf(raw: Float32Array, token: number): number {
  const logit = raw[token];
  let rank = 1;
  for (let id = 0; id < raw.length; id++) if (raw[id] > logit || (raw[id] === logit && id < token)) rank++;
  return rank;
}
