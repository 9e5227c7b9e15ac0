// --batch-invariant: a token's logits are the same, bit for bit, however many sequences share its step and however its prompt
// is cut into chunks.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { compile } from '../src/compiler/compile.ts';
import { CudaDevice } from '../src/device/cuda/cuda-device.ts';
import type { Executable } from '../src/device/device.ts';
import { CUDA_KERNELS } from '../src/kernels/cuda/index.ts';
import type { FloatDType } from '../src/tensor/dtype.ts';
import { compileRequest } from './support/compile.ts';
import { describeCuda } from './support/cuda.ts';
import { loadReference } from './support/reference-checkpoint.ts';
import { stepBatch, type SequenceChunk } from './support/step-batch.ts';

const NUM_SEQS = 64;
const BLOCK_SIZE = 16;
const BLOCKS_PER_SEQ = 4;
const MAX_TOKENS = NUM_SEQS * BLOCK_SIZE * BLOCKS_PER_SEQ;

/** Tokens `[start, end)` of a sequence. */
type Range = readonly [seq: number, start: number, end: number];

const lengthOf = (seq: number): number => 1 + ((seq * 37) % 61);
const tokenOf = (seq: number, position: number): number => (seq * 131 + position * 57) % 500;
const ALL = Array.from({ length: NUM_SEQS }, (_, seq): Range => [seq, 0, lengthOf(seq)]);

/** Schedules that all compute every token once. */
const SCHEDULES: readonly (readonly [string, readonly (readonly Range[])[]])[] = [
  ['in batches of 7', Array.from({ length: 10 }, (_, i) => ALL.slice(7 * i, 7 * i + 7))],
  ['in one batch of 64', [ALL]],
  ['in one batch, token by token', chunked(() => 1)],
  ['in chunks of all sizes', chunked((seq, start) => 1 + ((seq + start) % 17))],
];

function chunked(sizeOf: (seq: number, start: number) => number): Range[][] {
  const steps: Range[][] = [];
  const done = ALL.map(() => 0);
  while (done.some((start, seq) => start < lengthOf(seq))) {
    const step = ALL.filter(([seq, , end]) => done[seq] < end).map(([seq, , end]): Range => {
      const start = done[seq];
      done[seq] = Math.min(end, start + sizeOf(seq, start));
      return [seq, start, done[seq]];
    });
    steps.push(step);
  }
  return steps;
}

describeCuda('batch-invariant plans', () => {
  let device: CudaDevice;
  beforeAll(async () => {
    device = await CudaDevice.open();
  });
  afterAll(() => device.dispose());

  function load(name: string, dtype: FloatDType): Promise<Executable> {
    const { config, catalog, source } = loadReference(name);
    const plan = compile(
      compileRequest(config, {
        tensors: catalog,
        target: device.target,
        recipe: {
          weightDType: dtype,
          quantization: null,
          kvDType: dtype,
          activationPrecision: 'auto',
          batchInvariant: true,
        },
        limits: { maxNumBatchedTokens: MAX_TOKENS, maxNumSeqs: NUM_SEQS, maxNumLogitRows: MAX_TOKENS },
        blockSize: BLOCK_SIZE,
        maxModelLen: BLOCK_SIZE * BLOCKS_PER_SEQ,
        kernels: CUDA_KERNELS,
      }),
    );
    const numBlocks = plan.kvCacheGroups.map(() => NUM_SEQS * BLOCKS_PER_SEQ);
    return device.load(plan, source, { numBlocks });
  }

  describe.each([
    ['llama3_gqa', 'bfloat16'],
    ['llama3_gqa', 'float16'],
    ['llama3_gqa', 'float32'],
    ['gpt2', 'bfloat16'],
    ['gemma2', 'bfloat16'],
    ['gpt_oss', 'bfloat16'],
    ['deepseek_v2', 'bfloat16'],
  ] as const)('%s in %s', (name, dtype) => {
    let executable: Executable;
    let alone: Float32Array[];
    beforeAll(async () => {
      executable = await load(name, dtype);
      alone = await logitsOf(ALL.map((range) => [range]));
    });
    afterAll(() => executable.dispose());

    /** Logits of every token of each sequence, `[length, vocabSize]`. */
    async function logitsOf(steps: readonly (readonly Range[])[]): Promise<Float32Array[]> {
      const { vocabSize } = executable.plan.model;
      const results = ALL.map(([, , end]) => new Float32Array(end * vocabSize));
      for (const step of steps) {
        const batch = stepBatch(step.map(chunkOf), BLOCK_SIZE, executable.plan.kvCacheGroups.length);
        const logits = (await executable.run(batch)).logits!;
        let row = 0;
        for (const [seq, start, end] of step) {
          const rows = logits.subarray(row * vocabSize, (row + end - start) * vocabSize);
          results[seq].set(rows, start * vocabSize);
          row += end - start;
        }
      }
      return results;
    }

    it.each(SCHEDULES)('%s', async (_, steps) => {
      const together = await logitsOf(steps);
      const differing = ALL.filter(
        ([seq]) => Buffer.compare(bytesOf(together[seq]), bytesOf(alone[seq])) !== 0,
      );
      expect(differing).toEqual([]);
    });
  });
});

function chunkOf([seq, start, end]: Range): SequenceChunk {
  const positions = Array.from({ length: end - start }, (_, i) => start + i);
  return {
    tokenIds: positions.map((position) => tokenOf(seq, position)),
    numCached: start,
    blocks: Array.from({ length: BLOCKS_PER_SEQ }, (_, i) => i * NUM_SEQS + seq),
    logitRows: positions.map((_, i) => i),
  };
}

function bytesOf({ buffer, byteOffset, byteLength }: Float32Array): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength);
}
