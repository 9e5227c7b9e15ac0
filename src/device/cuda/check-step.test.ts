// What a step may hold before a GPU gets it: kernels compute addresses of these numbers.
import { describe, expect, it } from 'vitest';
import { TINY_LLAMA } from '../../../test/support/compile.ts';
import { cudaPlan, HOPPER, PLAN_LIMITS } from '../../../test/support/cuda-launches.ts';
import { samplingBatch } from '../../../test/support/sampling-batch.ts';
import { stepBatch } from '../../../test/support/step-batch.ts';
import { DeviceError } from '../device.ts';
import type { StepBatch } from '../step.ts';
import { checkStep, tokenIdLimit } from './check-step.ts';

const PLAN = cudaPlan(TINY_LLAMA, 'bfloat16', HOPPER);
const { blockSize, model } = PLAN;
const NUM_BLOCKS = 8;
/** A prompt of three tokens, and a decode behind twenty. */
const STEP = stepBatch(
  [
    { tokenIds: [1, 2, 3], numCached: 0, blocks: [4] },
    { tokenIds: [5], numCached: 20, blocks: [7, 2] },
  ],
  blockSize,
);

function check(changes: Partial<StepBatch>, numDrawn = 2): void {
  checkStep({ ...STEP, ...changes }, PLAN, {
    tokenIdLimit: tokenIdLimit(PLAN),
    numBlocks: [NUM_BLOCKS],
    numDrawn,
  });
}

const ints = (...values: number[]) => Int32Array.of(...values);
const group = (changes: Partial<StepBatch['groups'][0]>) => ({ groups: [{ ...STEP.groups[0], ...changes }] });
const sampling = (changes: Partial<StepBatch['sampling']>) => ({
  sampling: { ...STEP.sampling, ...changes },
});

describe('a step', () => {
  it('of numbers in range is taken, with tokens that only the GPU knows', () => {
    expect(() => check({})).not.toThrow();
    expect(() => check({ tokenIds: ints(1, 2, 3, -2) })).not.toThrow();
  });

  it.each<[string, Partial<StepBatch>, RegExp]>([
    ['too many tokens', { numTokens: PLAN_LIMITS.maxNumBatchedTokens + 1 }, /numTokens is/],
    ['a token id beyond the vocabulary', { tokenIds: ints(1, 2, model.vocabSize, 5) }, /tokenIds\[2\] is/],
    ['a row that the last step did not draw', { tokenIds: ints(1, 2, 3, -3) }, /tokenIds\[3\] is -3/],
    ['too few token ids', { tokenIds: ints(1) }, /tokenIds has 1 elements instead of 4/],
    ['a position beyond the context', { positions: ints(0, 1, 2, model.maxModelLen) }, /positions\[3\]/],
    ['a logit row that is no token', { logitRows: ints(4) }, /logitRows\[0\] is 4, not from 0 to 3/],
    ['sequences that end early', { cuSeqlensQ: ints(0, 3, 3) }, /must go from 0 to 4/],
    ['a sequence without tokens', { cuSeqlensQ: ints(0, 0, 4) }, /cuSeqlensQ\[1\] is not above/],
    ['a context shorter than its tokens', { contextLens: ints(2, 21) }, /contextLens\[0\] is 2/],
    ['a context longer than its blocks', { contextLens: ints(3, 33) }, /contextLens\[1\] is 33, more/],
    ['a slot beyond the cache', group({ slotMapping: ints(0, 1, 2, NUM_BLOCKS * blockSize) }), /slotMapping/],
    ['a block that is not there', group({ blockTables: ints(4, 0, NUM_BLOCKS, 2) }), /blockTables\[2\] is 8/],
    ['tables wider than their place', group({ maxBlocksPerSeq: 2 ** 20 }), /block tables of group 0 is/],
    ['too few groups', { groups: [] }, /it has 0 cache groups, the plan 1/],
    ['a copy of another group', { blockCopies: ints(1, 0, 0) }, /blockCopies\[0\] is of group 1/],
    ['a copy to beyond the cache', { blockCopies: ints(0, 0, NUM_BLOCKS) }, /blockCopies\[0\] names a block/],
    ['sampling of too few rows', sampling({ topK: ints(1) }), /topK has 1 elements instead of 2/],
    ['sampling of more rows than there is room for', sampling({ topK: new Int32Array(600) }), /topK is 600/],
    ['a target beyond the vocabulary', sampling({ targetIds: ints(0, model.vocabSize) }), /targetIds\[1\]/],
    ['offsets that fall', sampling({ biasOffsets: ints(0, 1, 0), biasIds: ints(1) }), /biasOffsets must not/],
    ['ids without values', sampling({ biasIds: ints(1) }), /biasIds has 1 elements, and 0 values/],
    ['values without ids', sampling({ biasValues: Float32Array.of(1) }), /biasIds has 0 elements, and 1/],
    [
      'a history of foreign tokens',
      { sampling: samplingBatch([{}, { history: [{ id: -1, outputCount: 1 }] }]) },
      /historyIds\[0\] is -1/,
    ],
  ])('with %s is refused by name', (_, changes, message) => {
    expect(() => check(changes)).toThrow(DeviceError);
    expect(() => check(changes)).toThrow(message);
  });
});
