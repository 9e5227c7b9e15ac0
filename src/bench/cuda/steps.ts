// Single steps of a model without an engine: decodes at a given context, and a prompt.
import type { CudaDevice } from '../../device/cuda/cuda-device.ts';
import type { Executable } from '../../device/device.ts';
import type { SamplingBatch, StepBatch } from '../../device/step.ts';
import { median } from '../metrics.ts';
import type { Figure } from './figure.ts';
import { loadPreset, type ModelChoice } from './model.ts';
import type { Roofs } from './roofs.ts';
import { leastSeconds, stepWork, utilization } from './work.ts';

const CONTEXT = 1024;
/** Kernels load at the first, the second is recorded. */
const NUM_WARM_UP_RUNS = 3;
const NUM_RUNS = 20;

export interface StepRow {
  readonly name: string;
  readonly numSeqs: number;
  /** Tokens of each sequence that the step computes: 1 for a decode. */
  readonly numTokens: number;
  readonly rival: string | null;
}

/** One load of the model for all the rows. */
export async function measureSteps(
  device: CudaDevice,
  model: ModelChoice,
  rows: readonly StepRow[],
  roofs: Roofs,
): Promise<Figure[]> {
  const maxNumSeqs = Math.max(...rows.map(({ numSeqs }) => numSeqs));
  const longest = Math.max(...rows.map(({ numTokens }) => contextOf(numTokens)));
  const executable = await loadPreset(device, model, {
    maxNumSeqs,
    maxNumBatchedTokens: longest,
    maxModelLen: longest + 16,
  });
  try {
    await fillCaches(executable, Math.max(...rows.map((row) => (row.numTokens === 1 ? row.numSeqs : 0))));
    const figures: Figure[] = [];
    for (const row of rows) figures.push(await measureStep(executable, row, roofs));
    return figures;
  } finally {
    await executable.dispose();
  }
}

async function measureStep(executable: Executable, row: StepRow, roofs: Roofs): Promise<Figure> {
  const { plan } = executable;
  const step = greedyStep(row.numSeqs, row.numTokens, executable);
  const stepMs = await timeSteps(executable, step);
  const work = stepWork(plan, { seqs: [{ ...row, contextLen: contextOf(row.numTokens) }] });
  const isDecode = row.numTokens === 1;
  return {
    row: row.name,
    what: isDecode
      ? `a decode of ${row.numSeqs} sequences at context ${CONTEXT}`
      : `a prompt of ${row.numTokens}`,
    value: median(stepMs),
    unit: 'ms',
    limit: 1000 * leastSeconds(work, roofs),
    rival: row.rival,
    ...utilization(work, median(stepMs) / 1000, roofs),
    detail: { ...work, minMs: Math.min(...stepMs), maxMs: Math.max(...stepMs) },
  };
}

/** Random prompts, so that attention reads numbers as they are. */
async function fillCaches(executable: Executable, numSeqs: number): Promise<void> {
  for (let seq = 0; seq < numSeqs; seq++) await executable.run(greedyStep(1, CONTEXT, executable, seq));
}

/** Milliseconds from the end of each step to the end of the next, always as many in flight as an engine has. */
async function timeSteps(executable: Executable, step: StepBatch): Promise<number[]> {
  for (let i = 0; i < NUM_WARM_UP_RUNS; i++) await executable.run(step);
  const inFlight: Promise<unknown>[] = [];
  const endMs: number[] = [];
  for (let i = 0; i <= NUM_RUNS; i++) {
    while (inFlight.length < executable.maxStepsInFlight) inFlight.push(executable.run(step));
    await inFlight.shift();
    endMs.push(performance.now());
  }
  await Promise.all(inFlight);
  return endMs.slice(1).map((ms, i) => ms - endMs[i]);
}

/** Tokens in a sequence's cache after a step. */
function contextOf(numTokens: number): number {
  return Math.max(CONTEXT, numTokens);
}

/** The last `numTokens` tokens of `numSeqs` sequences, the first of which is `firstSeq`. */
function greedyStep(numSeqs: number, numTokens: number, { plan }: Executable, firstSeq = 0): StepBatch {
  const { blockSize, model } = plan;
  const contextLen = contextOf(numTokens);
  const blocksPerSeq = Math.ceil(contextLen / blockSize);
  const total = numSeqs * numTokens;
  const seqOf = (token: number): number => firstSeq + Math.floor(token / numTokens);
  const positionOf = (token: number): number => contextLen - numTokens + (token % numTokens);
  const each = (of: (token: number) => number): Int32Array =>
    Int32Array.from({ length: total }, (_, i) => of(i));
  const group = {
    slotMapping: each((token) => seqOf(token) * blocksPerSeq * blockSize + positionOf(token)),
    blockTables: Int32Array.from({ length: numSeqs * blocksPerSeq }, (_, i) => firstSeq * blocksPerSeq + i),
    maxBlocksPerSeq: blocksPerSeq,
  };
  return {
    numTokens: total,
    numSeqs,
    tokenIds: each((token) => (positionOf(token) * 7919 + seqOf(token) * 104729) % model.vocabSize),
    positions: each(positionOf),
    cuSeqlensQ: Int32Array.from({ length: numSeqs + 1 }, (_, i) => i * numTokens),
    contextLens: new Int32Array(numSeqs).fill(contextLen),
    groups: plan.kvCacheGroups.map(() => group),
    logitRows: Int32Array.from({ length: numSeqs }, (_, i) => (i + 1) * numTokens - 1),
    blockCopies: new Int32Array(0),
    sampling: greedySampling(numSeqs),
    returnLogits: false,
  };
}

/** Of so many rows. */
export function greedySampling(numRows: number): SamplingBatch {
  const floats = (value: number) => new Float32Array(numRows).fill(value);
  const ints = (value: number) => new Int32Array(numRows).fill(value);
  return {
    targetIds: ints(-1),
    temperature: floats(0),
    topK: ints(0),
    topP: floats(1),
    minP: floats(0),
    repetitionPenalty: floats(1),
    presencePenalty: floats(0),
    frequencyPenalty: floats(0),
    seedLow: new Uint32Array(numRows),
    seedHigh: new Uint32Array(numRows),
    position: new Uint32Array(numRows),
    numLogprobs: ints(-1),
    biasOffsets: new Int32Array(numRows + 1),
    biasIds: new Int32Array(0),
    biasValues: new Float32Array(0),
    historyOffsets: new Int32Array(numRows + 1),
    historyIds: new Int32Array(0),
    historyOutputCounts: new Int32Array(0),
  };
}
