import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CpuLibrary } from '../../ffi/cpu-library.ts';
import type { KVCacheSpec } from '../../ir/graph.ts';
import type { AttentionAttributes } from '../../ir/ops/attention.ts';
import { PagedKVCaches } from '../../ir/paged-kv-cache.ts';
import { checkLaunch, expectClose, randomValues } from '../../../test/support/check-launch.ts';
import {
  CpuHarness,
  matrix,
  type HarnessLaunch,
  type HarnessOperand,
  type HarnessSession,
} from '../../../test/support/cpu-harness.ts';
import { stepBatch } from '../../../test/support/step-batch.ts';

/** Tokens in the cache after the step, and how many of them are queries of it. */
type Sequence = readonly [contextLen: number, numQueries: number];

interface Case extends Partial<AttentionAttributes> {
  readonly sequences: readonly Sequence[];
  /** latentAttention instead; it has one KV head and none of the other variations. */
  readonly isLatent?: boolean;
  readonly hasSinks?: boolean;
  readonly blockSize?: number;
  readonly dtype?: KVCacheSpec['dtype'];
}

const RAGGED: readonly Sequence[] = [
  [1, 1],
  [40, 7],
  [17, 17],
  [65, 1],
  [130, 100],
  [64, 1],
];

/** One prefill tile and more; decodes of one and of several splits; both. */
const CASES: Record<string, Case> = {
  'one token': { sequences: [[1, 1]] },
  'ragged batch, grouped heads': { sequences: RAGGED },
  'one KV head per head': { sequences: RAGGED, numHeads: 3, numKvHeads: 3 },
  'one KV head for 71 heads': { sequences: RAGGED, numHeads: 71, numKvHeads: 1, headDim: 8, valueHeadDim: 8 },
  'odd head sizes': { sequences: RAGGED, headDim: 37, valueHeadDim: 21 },
  'head of 1': { sequences: RAGGED, headDim: 1, valueHeadDim: 1 },
  'head of 128': { sequences: RAGGED, headDim: 128, valueHeadDim: 128 },
  'long decodes, split': {
    sequences: [
      [1100, 1],
      [512, 1],
      [513, 1],
      [2050, 1],
      [600, 40],
    ],
    headDim: 16,
    valueHeadDim: 16,
  },
  'long decodes in a window': {
    sequences: [
      [1500, 1],
      [900, 300],
    ],
    window: 700,
    headDim: 16,
    valueHeadDim: 16,
  },
  'narrow window': { sequences: RAGGED, window: 5 },
  'window of one tile': { sequences: RAGGED, window: 64 },
  'soft cap': { sequences: RAGGED, softcap: 0.8 },
  ALiBi: { sequences: RAGGED, alibiSlopes: [0.5, 0.25, 0.125, 0.0625] },
  'ALiBi, soft cap and window': {
    sequences: RAGGED,
    alibiSlopes: [0.5, 0.2, 0.1, 0.05],
    softcap: 2,
    window: 33,
  },
  'blocks of 5': { sequences: RAGGED, blockSize: 5 },
  'blocks of 8': { sequences: RAGGED, blockSize: 8 },
  'blocks of 128': { sequences: RAGGED, blockSize: 128 },
  'bfloat16 cache': { sequences: RAGGED, dtype: 'bfloat16' },
  sinks: { sequences: [...RAGGED, [1100, 1]], hasSinks: true },
  'sinks and a window': { sequences: RAGGED, hasSinks: true, window: 9, numHeads: 6 },
  latents: { sequences: RAGGED, isLatent: true, numKvHeads: 1 },
  'latents of odd sizes, blocks of 5': {
    sequences: [...RAGGED, [1100, 1]],
    isLatent: true,
    numHeads: 7,
    numKvHeads: 1,
    headDim: 6,
    valueHeadDim: 21,
    blockSize: 5,
  },
  'latents of 130 heads, bfloat16 cache': {
    sequences: RAGGED,
    isLatent: true,
    numHeads: 130,
    numKvHeads: 1,
    headDim: 8,
    valueHeadDim: 40,
    dtype: 'bfloat16',
  },
  'int8 cache': { sequences: [...RAGGED, [1100, 1]], dtype: 'int8' },
  'int8 cache, blocks of 5, odd heads in a window': {
    sequences: RAGGED,
    dtype: 'int8',
    blockSize: 5,
    headDim: 37,
    valueHeadDim: 21,
    window: 33,
  },
  'int8 cache of latents': {
    sequences: [...RAGGED, [1100, 1]],
    isLatent: true,
    numHeads: 7,
    numKvHeads: 1,
    headDim: 8,
    valueHeadDim: 40,
    dtype: 'int8',
  },
  'float8 cache': { sequences: [...RAGGED, [1100, 1]], dtype: 'float8_e4m3fn' },
  'float8 cache of latents, blocks of 8': {
    sequences: RAGGED,
    isLatent: true,
    numHeads: 20,
    numKvHeads: 1,
    headDim: 6,
    valueHeadDim: 21,
    blockSize: 8,
    dtype: 'float8_e4m3fn',
  },
  'float16 cache, blocks of 24': { sequences: RAGGED, dtype: 'float16', blockSize: 24, valueHeadDim: 40 },
};

/** Everything for one case: caches filled on both sides, and the launch over the last tokens of each sequence. */
async function prepare(
  harness: CpuHarness,
  { sequences, blockSize = 16, dtype = 'float32', isLatent = false, hasSinks = false, ...changes }: Case,
) {
  const common = { layer: 0, numHeads: 4, numKvHeads: 2, headDim: 32, valueHeadDim: 32, scale: 0.3 };
  const variations = { window: null, softcap: null, alibiSlopes: null };
  const attributes = { ...common, ...variations, ...changes };
  const { numHeads, numKvHeads, headDim, valueHeadDim } = attributes;
  const spec = { layer: 0, numKvHeads, keyHeadDim: headDim, valueHeadDim, window: attributes.window, dtype };
  const blocks = shuffledBlocks(sequences, blockSize);
  const numBlocks = blocks.flat().length + 1;
  const session = harness.session([spec], numBlocks, blockSize);
  const caches = new PagedKVCaches([[spec]], blockSize, [numBlocks]);
  await fillCaches(session, caches, spec, sequences, blocks, blockSize);
  const step = stepOf(sequences, blocks, blockSize, false);
  const q = matrix(step.numTokens, numHeads * headDim, randomValues(step.numTokens * numHeads * headDim, 7), {
    columnStart: 3,
  });
  const launch: HarnessLaunch = {
    op: isLatent ? 'latentAttention' : 'attention',
    attributes: isLatent ? { ...common, ...changes } : attributes,
    inputs: [
      q,
      { kind: 'kvCache', layer: 0 },
      { kind: 'input', name: 'blockTables' },
      { kind: 'input', name: 'cuSeqlensQ' },
      { kind: 'input', name: 'contextLens' },
      ...(isLatent ? [randomMatrix(step.numTokens, numHeads * valueHeadDim, 8)] : []),
      ...(hasSinks ? [randomMatrix(1, numHeads, 9)] : []),
    ],
    outputs: [matrix(step.numTokens, numHeads * valueHeadDim, undefined, { columnStart: 2 })],
  };
  return { session, caches, step, launch };
}

function randomMatrix(rows: number, columns: number, seed: number): HarnessOperand {
  return matrix(rows, columns, randomValues(rows * columns, seed));
}

async function fillCaches(
  session: HarnessSession,
  caches: PagedKVCaches,
  spec: KVCacheSpec,
  sequences: readonly Sequence[],
  blocks: readonly (readonly number[])[],
  blockSize: number,
) {
  const whole = stepOf(sequences, blocks, blockSize, true);
  const k = matrix(
    whole.numTokens,
    spec.numKvHeads * spec.keyHeadDim,
    randomValues(whole.numTokens * spec.numKvHeads * spec.keyHeadDim, 5),
  );
  const v = matrix(
    whole.numTokens,
    spec.numKvHeads * spec.valueHeadDim,
    randomValues(whole.numTokens * spec.numKvHeads * spec.valueHeadDim, 6),
  );
  const inputs = [k, v, { kind: 'input', name: 'slotMapping' } as const];
  await session.run(
    [{ op: 'kvWrite', attributes: { layer: 0 }, inputs, outputs: [{ kind: 'kvCache', layer: 0 }] }],
    whole,
  );
  caches.layer(0).write(k.values as Float32Array, v.values as Float32Array, whole.groups[0].slotMapping);
}

/** Blocks of all sequences, interleaved so that no two neighbours of a sequence are neighbours in memory. */
function shuffledBlocks(sequences: readonly Sequence[], blockSize: number): number[][] {
  const counts = sequences.map(([contextLen]) => Math.ceil(contextLen / blockSize));
  const total = counts.reduce((sum, count) => sum + count, 0);
  const order = Array.from({ length: total }, (_, i) => (i * 7919) % total);
  const unique =
    new Set(order).size === total ? order : Array.from({ length: total }, (_, i) => total - 1 - i);
  let next = 0;
  return counts.map((count) => unique.slice(next, (next += count)));
}

function stepOf(
  sequences: readonly Sequence[],
  blocks: readonly (readonly number[])[],
  blockSize: number,
  isWhole: boolean,
) {
  const chunks = sequences.map(([contextLen, numQueries], i) => {
    const count = isWhole ? contextLen : numQueries;
    return {
      tokenIds: new Array<number>(count).fill(0),
      numCached: contextLen - count,
      blocks: blocks[i],
      logitRows: [],
    };
  });
  return stepBatch(chunks, blockSize);
}

describe.each(CpuLibrary.available())('attention, %s', (arch) => {
  let harness: CpuHarness;
  beforeAll(() => {
    harness = new CpuHarness(arch);
  });
  afterAll(() => harness.close());

  it.each(Object.entries(CASES))('%s', async (_, testCase) => {
    const { session, caches, step, launch } = await prepare(harness, testCase);
    await checkLaunch(session, launch, step, { caches, tolerance: 5e-6 });
    session.free();
  });

  it('gives a sequence the same result whatever is batched with it', async () => {
    const alone = await prepare(harness, { sequences: [[1100, 1]], headDim: 16, valueHeadDim: 16 });
    const [expected] = await alone.session.run([alone.launch], alone.step);
    const [again] = await alone.session.run([alone.launch, alone.launch], alone.step);
    expect(again).toEqual(expected);
    alone.session.free();
  });

  it('survives scores that differ by hundreds', async () => {
    const { session, caches, step, launch } = await prepare(harness, { sequences: RAGGED, scale: 90 });
    await checkLaunch(session, launch, step, { caches, tolerance: 2e-4 });
    session.free();
  });

  it('refuses blocks outside of the cache and contexts beyond the block table', async () => {
    const { session, step, launch } = await prepare(harness, { sequences: [[40, 7]] });
    const { blockTables } = step.groups[0];
    const block = blockTables[1];
    blockTables[1] = 1000;
    await expect(session.run([launch], step)).rejects.toThrow('blockTables[1] is 1000');
    blockTables[1] = block;
    await expect(session.run([launch], { ...step, contextLens: Int32Array.of(49) })).rejects.toThrow(
      'contextLens[0]',
    );
    await expect(session.run([launch], { ...step, contextLens: Int32Array.of(6) })).rejects.toThrow(
      'contextLens[0]',
    );
    const [y] = await session.run([launch], step);
    expectClose(y, y, 0);
    session.free();
  });
});
