// Attention tried over ragged batches: decodes alone, prompts beside them, prompts whose first part is in the cache already.
import type { Attributes, KVCacheSpec } from '../../src/ir/graph.ts';
import { PagedKVCaches } from '../../src/ir/paged-kv-cache.ts';
import type { StepBatch } from '../../src/device/step.ts';
import type { KVCacheDType } from '../../src/tensor/dtype.ts';
import type { FilledCache } from './cache-image.ts';
import { matrix, type HarnessOperand } from './cpu-harness.ts';
import type { KernelSuite } from './kernel-suite.ts';
import { CODE_STEPS, codesAndScales, wide, type ActivationCodes } from './quantized-operands.ts';
import { stepBatch } from './step-batch.ts';

const BLOCK_SIZE = 16;

export interface AttentionCase {
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly valueHeadDim: number;
  readonly window?: number;
  readonly softcap?: number;
  readonly alibiSlopes?: readonly number[];
  readonly hasSinks?: boolean;
}

export function heads(
  numHeads: number,
  numKvHeads: number,
  headDim: number,
  valueHeadDim = headDim,
): AttentionCase {
  return { numHeads, numKvHeads, headDim, valueHeadDim };
}

/** Everything that changes how scores are made. */
export const SCORE_RULES: readonly AttentionCase[] = [
  { ...heads(4, 2, 32), window: 29 },
  { ...heads(4, 2, 32), softcap: 1.5 },
  { ...heads(3, 1, 32), alibiSlopes: [0.5, 0.1, 0.02] },
  { ...heads(3, 1, 32), hasSinks: true },
];

/** Over caches of codes: a few shapes of each kernel, and heads whose rows pad in the caches' tiles. */
export const CODED_CASES: readonly AttentionCase[] = [
  ...[16, 48, 64, 80, 96, 112, 128, 256].map((headDim) => heads(4, 2, headDim)),
  heads(3, 3, 192, 128),
  heads(2, 1, 40, 24),
  heads(2, 1, 37, 21),
  heads(8, 1, 128),
  heads(35, 1, 16),
  ...SCORE_RULES,
];

const CONTEXT_LENS = [1, 40, 17, 65, 1300, 130, 16, 300];
const NUM_QUERIES = [
  [1, 1, 1, 1, 1, 1, 1, 1],
  [1, 7, 17, 1, 1, 100, 2, 1],
  [1, 40, 2, 65, 17, 130, 1, 70],
];

/** Less than a tile, few tiles, and many. */
const ALONE_LENS = [1, 400, 2500];

/** `codes`: what results become, under scales that are given. */
export function checkAttention(
  kernels: KernelSuite,
  shape: AttentionCase,
  kvDType: KVCacheDType,
  codes: ActivationCodes | null = null,
): Promise<void> {
  return checkSteps(kernels, shape, kvDType, codes, CONTEXT_LENS, NUM_QUERIES);
}

/** Steps of one token: kernels may know that there is no other. */
export async function checkAlone(
  kernels: KernelSuite,
  shape: AttentionCase,
  kvDType: KVCacheDType,
  codes: ActivationCodes | null = null,
): Promise<void> {
  for (const contextLen of ALONE_LENS) await checkSteps(kernels, shape, kvDType, codes, [contextLen], [[1]]);
}

async function checkSteps(
  kernels: KernelSuite,
  { hasSinks, ...shape }: AttentionCase,
  kvDType: KVCacheDType,
  codes: ActivationCodes | null,
  contextLens: readonly number[],
  steps: readonly (readonly number[])[],
): Promise<void> {
  const { numHeads, numKvHeads, headDim, valueHeadDim } = shape;
  const plain = { window: null, softcap: null, alibiSlopes: null };
  const attributes = { layer: 0, scale: 0.3, ...plain, ...shape } as Attributes;
  const dims = { numKvHeads, keyHeadDim: headDim, valueHeadDim };
  const { cache, blocks } = filledCache(kernels, dims, contextLens, kvDType);
  for (const numQueries of steps) {
    const step = stepOf(contextLens, numQueries, blocks);
    const { numTokens } = step;
    const q = matrix(numTokens, numHeads * headDim, kernels.random(numTokens * numHeads * headDim, 3));
    const sinks = hasSinks ? [kernels.vector(numHeads, 5)] : [];
    const columns = numHeads * valueHeadDim;
    if (codes === null) {
      const inputs = [q, ...batchOperands(), ...sinks];
      const outputs = [matrix(numTokens, columns)];
      await kernels.checkCase({ step, cache, launch: { op: 'attention', attributes, inputs, outputs } });
      continue;
    }
    const launch = {
      op: 'attentionQuantize',
      attributes: { ...attributes, quantize: { dtype: codes, groupSize: columns } },
      inputs: [q, ...batchOperands(), wide([2], attentionScales(codes, Math.min(...contextLens))), ...sinks],
      outputs: codesAndScales(numTokens, columns, codes),
    };
    // Of the largest codes, which stand for half of the largest values.
    await kernels.checkCase({ step, cache, launch }, [CODE_STEPS[codes] + 2 * kernels.tolerance, 0]);
  }
}

/** Under which the larger of what attention to so many keys yields saturates, 0.5 and above of a single one: the first counts. */
function attentionScales(codes: ActivationCodes, numKeys: number): Float32Array {
  const scale = 0.5 / Math.sqrt(numKeys) / (codes === 'int8' ? 127 : 448);
  return Float32Array.of(scale, scale / 2);
}

/** The cache, and the arrays that tell attention of the batch. */
export function batchOperands(): readonly HarnessOperand[] {
  const names = ['blockTables', 'cuSeqlensQ', 'contextLens'] as const;
  return [{ kind: 'kvCache', layer: 0 }, ...names.map((name) => ({ kind: 'input', name }) as const)];
}

/** The last `numQueries` tokens of each sequence. */
export function stepOf(
  contextLens: readonly number[],
  numQueries: readonly number[],
  blocks: readonly (readonly number[])[],
): StepBatch {
  const chunks = contextLens.map((length, i) => {
    const tokenIds = new Array<number>(numQueries[i]).fill(0);
    return { tokenIds, numCached: length - numQueries[i], blocks: blocks[i], logitRows: [] };
  });
  return stepBatch(chunks, BLOCK_SIZE);
}

/** Sequences' keys and values in blocks of their own, NaN in slots that belong to none. */
export function filledCache(
  kernels: KernelSuite,
  dims: Pick<KVCacheSpec, 'numKvHeads' | 'keyHeadDim' | 'valueHeadDim'>,
  contextLens: readonly number[],
  kvDType: KVCacheDType,
): { cache: FilledCache; blocks: readonly (readonly number[])[] } {
  const spec = { layer: 0, window: null, dtype: kvDType, ...dims };
  let numBlocks = 0;
  const blocks = contextLens.map((length) =>
    Array.from({ length: Math.ceil(length / BLOCK_SIZE) }, () => numBlocks++),
  );
  const paged = new PagedKVCaches([[spec]], BLOCK_SIZE, [numBlocks]);
  const cache = paged.layer(0);
  cache.keys.fill(NaN);
  cache.values.fill(NaN);
  contextLens.forEach((length, i) => {
    const slots = Int32Array.from(
      { length },
      (_, at) => blocks[i][Math.floor(at / BLOCK_SIZE)] * BLOCK_SIZE + (at % BLOCK_SIZE),
    );
    const { numKvHeads, keyHeadDim, valueHeadDim } = dims;
    const keys = kernels.random(length * numKvHeads * keyHeadDim, 2 * i + 10);
    cache.write(keys, kernels.random(length * numKvHeads * valueHeadDim, 2 * i + 11), slots);
  });
  return { cache: { spec, numBlocks, paged }, blocks };
}
