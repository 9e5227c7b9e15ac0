// Refuses a step with a number out of range before anything is started: a kernel would read or write beyond its memory.
import type { Plan } from '../../compiler/plan.ts';
import { blocksPerSeq, SAMPLING_ROWS } from '../../kernels/cuda/step-layout.ts';
import { DeviceError } from '../device.ts';
import type { SamplingBatch, StepBatch } from '../step.ts';

export interface StepSurroundings {
  /** Token ids are below it. */
  readonly tokenIdLimit: number;
  /** Of each cache group. */
  readonly numBlocks: readonly number[];
  /** Rows of the step before, whose tokens this one may start from. */
  readonly numDrawn: number;
}

/** Rows of the tables that a plan looks token ids up in. */
export function tokenIdLimit({ launches, weights, model }: Plan): number {
  const numRows = launches.flatMap(({ op, inputs: [ids, table] }) => {
    const isLookUp = op === 'embedding' && ids.kind === 'input' && ids.name === 'tokenIds';
    return isLookUp && table.kind === 'weight' ? [weights[table.id].shape[0]] : [];
  });
  return numRows.length === 0 ? model.vocabSize : Math.min(...numRows);
}

/** Throws a `DeviceError` that names the array and the element at fault. */
export function checkStep(step: StepBatch, plan: Plan, surroundings: StepSurroundings): void {
  const { tokenIdLimit, numBlocks, numDrawn } = surroundings;
  const { numTokens, numSeqs, logitRows } = step;
  const { limits, model, kvCacheGroups } = plan;
  atMost('numTokens', numTokens, limits.maxNumBatchedTokens);
  atMost('numSeqs', numSeqs, limits.maxNumSeqs);
  atMost('the number of logit rows', logitRows.length, limits.maxNumLogitRows);
  if (step.groups.length !== kvCacheGroups.length)
    refuse(`it has ${step.groups.length} cache groups, the plan ${kvCacheGroups.length}`);
  checkArray('tokenIds', step.tokenIds, numTokens, tokenIdLimit, -numDrawn);
  checkArray('positions', step.positions, numTokens, model.maxModelLen);
  checkArray('logitRows', logitRows, logitRows.length, numTokens);
  checkSequences(step);
  step.groups.forEach((_, group) => checkGroup(step, group, plan, numBlocks[group]));
  checkCopies(step.blockCopies, numBlocks);
  checkSampling(step.sampling, logitRows.length, limits.maxNumLogitRows, model.vocabSize);
}

function checkSequences({ numTokens, numSeqs, cuSeqlensQ, contextLens }: StepBatch): void {
  checkArray('cuSeqlensQ', cuSeqlensQ, numSeqs + 1, numTokens + 1);
  checkArray('contextLens', contextLens, numSeqs, 2 ** 31);
  if (cuSeqlensQ[0] !== 0 || cuSeqlensQ[numSeqs] !== numTokens)
    refuse(`cuSeqlensQ must go from 0 to ${numTokens}`);
  for (let seq = 0; seq < numSeqs; seq++) {
    const numQueries = cuSeqlensQ[seq + 1] - cuSeqlensQ[seq];
    if (numQueries < 1) refuse(`cuSeqlensQ[${seq + 1}] is not above cuSeqlensQ[${seq}]`);
    if (contextLens[seq] < numQueries) refuse(`contextLens[${seq}] is ${contextLens[seq]}, below its tokens`);
  }
}

function checkGroup(step: StepBatch, group: number, plan: Plan, numBlocks: number): void {
  const { slotMapping, blockTables, maxBlocksPerSeq } = step.groups[group];
  const { blockSize, limits } = plan;
  const room = limits.maxNumSeqs * blocksPerSeq(plan);
  atMost(`the block tables of group ${group}`, step.numSeqs * maxBlocksPerSeq, room);
  checkArray('slotMapping', slotMapping, step.numTokens, numBlocks * blockSize);
  checkArray('blockTables', blockTables, step.numSeqs * maxBlocksPerSeq, numBlocks);
  step.contextLens.subarray(0, step.numSeqs).forEach((length, seq) => {
    if (length > maxBlocksPerSeq * blockSize)
      refuse(
        `contextLens[${seq}] is ${length}, more than its ${maxBlocksPerSeq} blocks of group ${group} hold`,
      );
  });
}

function checkCopies(copies: Int32Array, numBlocks: readonly number[]): void {
  for (let i = 0; i + 2 < copies.length; i += 3) {
    const blocks = numBlocks[copies[i]];
    if (blocks === undefined) refuse(`blockCopies[${i / 3}] is of group ${copies[i]}, which is not there`);
    const isInside = [copies[i + 1], copies[i + 2]].every((block) => block >= 0 && block < blocks);
    if (!isInside) refuse(`blockCopies[${i / 3}] names a block beyond the ${blocks} of group ${copies[i]}`);
  }
}

function checkSampling(
  sampling: SamplingBatch,
  numRows: number,
  maxNumRows: number,
  vocabSize: number,
): void {
  for (const name of SAMPLING_ROWS) {
    checkLength(name, sampling[name], numRows);
    atMost(`the length of ${name}`, sampling[name].length, maxNumRows);
  }
  for (const name of ['biasOffsets', 'historyOffsets'] as const)
    atMost(`the length of ${name}`, sampling[name].length, maxNumRows + 1);
  sampling.targetIds.forEach((id, row) => {
    if (id >= vocabSize) refuse(`targetIds[${row}] is ${id}, the vocabulary has ${vocabSize}`);
  });
  sampling.numLogprobs.forEach((count, row) => {
    if (count > vocabSize) refuse(`numLogprobs[${row}] is ${count}, the vocabulary has ${vocabSize}`);
  });
  checkLists('bias', sampling.biasOffsets, sampling.biasIds, sampling.biasValues, numRows, vocabSize);
  checkLists(
    'history',
    sampling.historyOffsets,
    sampling.historyIds,
    sampling.historyOutputCounts,
    numRows,
    vocabSize,
  );
}

function checkLists(
  name: 'bias' | 'history',
  offsets: Int32Array,
  ids: Int32Array,
  values: Int32Array | Float32Array,
  numRows: number,
  vocabSize: number,
): void {
  checkArray(`${name}Offsets`, offsets, numRows + 1, ids.length + 1);
  if (offsets.some((offset, row) => row > 0 && offset < offsets[row - 1]))
    refuse(`${name}Offsets must not fall`);
  checkArray(`${name}Ids`, ids, ids.length, vocabSize);
  if (values.length !== ids.length)
    refuse(`${name}Ids has ${ids.length} elements, and ${values.length} values`);
}

/** The first `length` elements are in [start, end). */
function checkArray(name: string, array: Int32Array, length: number, end: number, start = 0): void {
  checkLength(name, array, length);
  for (let i = 0; i < length; i++)
    if (!(array[i] >= start && array[i] < end))
      refuse(`${name}[${i}] is ${array[i]}, not from ${start} to ${end - 1}`);
}

function checkLength(name: string, array: { readonly length: number }, length: number): void {
  if (array.length < length) refuse(`${name} has ${array.length} elements instead of ${length}`);
}

function atMost(name: string, value: number, limit: number): void {
  if (!(value >= 0 && value <= limit)) refuse(`${name} is ${value}, the plan takes at most ${limit}`);
}

function refuse(problem: string): never {
  throw new DeviceError(`the step was refused: ${problem}`);
}
