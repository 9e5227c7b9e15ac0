// One suite for everything that runs a model: logits and greedy tokens must be those of test/fixtures/reference,
// however the prompts are cut into steps, mixed with others, or laid out in KV blocks.
import { beforeAll, describe, expect, it } from 'vitest';
import { compile } from '../../src/compiler/compile.ts';
import type { Plan, Target } from '../../src/compiler/plan.ts';
import type { CompileRecipe } from '../../src/compiler/request.ts';
import { kernelsFor } from '../../src/device/create-device.ts';
import type { StepBatch } from '../../src/device/step.ts';
import { kvCacheGroups } from '../../src/ir/kv-cache-groups.ts';
import { findModel } from '../../src/models/registry.ts';
import { compileRequest } from './compile.ts';
import { loadReference, REFERENCE_NAMES, type ReferenceCheckpoint } from './reference-checkpoint.ts';
import { stepBatch, type SequenceChunk } from './step-batch.ts';

export const PARITY_BLOCK_SIZE = 16;
/** KV blocks that a model under test must have, in each cache group. */
export const PARITY_NUM_BLOCKS = 32;
/** Tokens in a step at most, and logit rows. */
export const PARITY_MAX_TOKENS = 128;
export const PARITY_MAX_MODEL_LEN = 128;

/** The plan that these tests run on a device. */
export function parityPlan(
  { config, catalog }: ReferenceCheckpoint,
  target: Target,
  recipe: CompileRecipe,
): Plan {
  const limits = {
    maxNumBatchedTokens: PARITY_MAX_TOKENS,
    maxNumSeqs: 4,
    maxNumLogitRows: PARITY_MAX_TOKENS,
  };
  return compile(
    compileRequest(config, {
      tensors: catalog,
      target,
      recipe,
      limits,
      blockSize: PARITY_BLOCK_SIZE,
      maxModelLen: PARITY_MAX_MODEL_LEN,
      kernels: kernelsFor(target),
    }),
  );
}

/** Runs one step; gives the raw logits `[numLogitRows, vocabSize]`. */
export type RunStep = (step: StepBatch) => Promise<Float32Array>;

/** Largest difference of a logit allowed, in standard deviations of the reference's logits. */
const MAX_ERROR = 1e-3;
/** Below this distance of the two largest logits, the greedy token may fairly differ. */
const MIN_MARGIN = 0.01;

/** `load` is called once per reference checkpoint; every test starts with new sequences. */
export function describeReferenceParity(
  title: string,
  load: (reference: ReferenceCheckpoint) => Promise<RunStep>,
): void {
  describe.each(REFERENCE_NAMES)(`${title}: %s`, (name) => {
    const reference = loadReference(name);
    let run: RunStep;
    beforeAll(async () => {
      run = await load(reference);
    });

    it('computes each prompt in one step', async () => {
      for (const prompt of reference.prompts.keys()) {
        const { length } = reference.prompts[prompt];
        expectLogits(reference, await run(batchOf(reference, [chunk(reference, prompt, 0, length)])), [
          [prompt, 0, length],
        ]);
      }
    });

    it('computes prompts in one batch', async () => {
      const ranges = reference.prompts.map((tokens, prompt) => [prompt, 0, tokens.length] as const);
      const step = batchOf(
        reference,
        ranges.map(([prompt, start, end]) => chunk(reference, prompt, start, end)),
      );
      expectLogits(reference, await run(step), ranges);
    });

    it('computes prompts in chunks, beside chunks and decodes of others', async () => {
      for (const ranges of MIXED_STEPS) {
        const step = batchOf(
          reference,
          ranges.map(([prompt, start, end]) => chunk(reference, prompt, start, end)),
        );
        expectLogits(reference, await run(step), ranges);
      }
    });

    it('reuses the blocks of an equal prefix', async () => {
      await run(batchOf(reference, [chunk(reference, 3, 0, 48)]));
      const [first, second] = blocksOf(3);
      const shared = { ...chunk(reference, 3, 32, 48), blocks: [first, second, 31] };
      expectLogits(reference, await run(batchOf(reference, [shared])), [[3, 32, 48]]);
    });

    it('copies a block before it writes to the copy', async () => {
      await run(batchOf(reference, [chunk(reference, 3, 0, 40)]));
      const [first, second, third] = blocksOf(3);
      const forked = { ...chunk(reference, 3, 40, 48), blocks: [first, second, 30] };
      const step = batchOf(reference, [forked]);
      const blockCopies = Int32Array.from(step.groups.flatMap((_, group) => [group, third, 30])); // group, source, destination
      expectLogits(reference, await run({ ...step, blockCopies }), [[3, 40, 48]]);
    });

    it('chooses the greedy tokens', async () => {
      for (let numDone = 0; numDone < 24; numDone++) {
        const chunks = reference.prompts.map(({ length }, prompt) => {
          const end = length + numDone;
          const { tokenIds, ...rest } = chunk(reference, prompt, numDone === 0 ? 0 : end - 1, end);
          return { ...rest, tokenIds, logitRows: [tokenIds.length - 1] };
        });
        expectGreedyTokens(reference, await run(batchOf(reference, chunks)), numDone);
      }
    });
  });
}

/** Ranges `[prompt, start, end)` of prompts; the parts of each prompt follow each other. */
type Range = readonly [prompt: number, start: number, end: number];

const MIXED_STEPS: readonly (readonly Range[])[] = [
  [[3, 0, 5]],
  [
    [2, 0, 23],
    [3, 5, 21],
  ],
  [
    [3, 21, 22],
    [0, 0, 1],
    [1, 0, 6],
  ],
  [
    [1, 6, 7],
    [2, 23, 24],
    [3, 22, 48],
  ],
];

/** Blocks of the sequence of a prompt: scattered, and in falling order. */
function blocksOf(prompt: number): readonly number[] {
  return Array.from({ length: 6 }, (_, i) => 4 * (6 - i) + prompt);
}

/** Tokens `[start, end)` of a prompt and its greedy continuation, logits of all of them wanted. */
function chunk(reference: ReferenceCheckpoint, prompt: number, start: number, end: number): SequenceChunk {
  const tokenIds = [...reference.prompts[prompt], ...reference.greedy[prompt]].slice(start, end);
  return { tokenIds, numCached: start, blocks: blocksOf(prompt), logitRows: [...tokenIds.keys()] };
}

function batchOf({ config }: ReferenceCheckpoint, chunks: readonly SequenceChunk[]): StepBatch {
  const graph = findModel(config).buildGraph(config, {
    kvDType: 'float32',
    maxModelLen: PARITY_MAX_MODEL_LEN,
  });
  return stepBatch(chunks, PARITY_BLOCK_SIZE, kvCacheGroups(graph.kvCaches).length);
}

function expectLogits(reference: ReferenceCheckpoint, actual: Float32Array, ranges: readonly Range[]): void {
  const vocabSize = reference.config['vocab_size'] as number;
  let row = 0;
  for (const [prompt, start, end] of ranges) {
    const expected = reference.logits[prompt].subarray(start * vocabSize, end * vocabSize);
    const part = actual.subarray(row * vocabSize, (row + end - start) * vocabSize);
    const error = largestDifference(expected, part) / standardDeviation(reference.logits[prompt]);
    expect(error, `prompt ${prompt}, tokens ${start} to ${end}`).toBeLessThan(MAX_ERROR);
    row += end - start;
  }
  expect(actual.length).toBe(row * vocabSize);
}

function expectGreedyTokens(reference: ReferenceCheckpoint, logits: Float32Array, step: number): void {
  const vocabSize = reference.config['vocab_size'] as number;
  reference.greedy.forEach((tokens, prompt) => {
    if (reference.margin[prompt][step] < MIN_MARGIN) return;
    const row = logits.subarray(prompt * vocabSize, (prompt + 1) * vocabSize);
    expect(row.indexOf(Math.max(...row)), `prompt ${prompt}, greedy step ${step}`).toBe(tokens[step]);
  });
}

function largestDifference(expected: Float32Array, actual: Float32Array): number {
  return expected.reduce((largest, value, i) => {
    const difference = Math.abs(value - actual[i]);
    return difference <= largest ? largest : difference; // NaN wins
  }, 0);
}

function standardDeviation(values: Float32Array): number {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length);
}
