// Every kernel against its op's definition, over odd shapes, views and places, in every type.
import { afterAll, beforeAll, describe, it } from 'vitest';
import type { Attributes, KVCacheSpec } from '../../ir/graph.ts';
import { ACTIVATION_KINDS } from '../../ir/ops/activation-kinds.ts';
import { PagedKVCaches } from '../../ir/paged-kv-cache.ts';
import { roundTo, type KVCacheDType } from '../../tensor/dtype.ts';
import { plainStep, randomValues } from '../../../test/support/check-launch.ts';
import { matrix, type HarnessOperand, type Matrix } from '../../../test/support/cpu-harness.ts';
import { CudaHarness, type CudaCase } from '../../../test/support/cuda-harness.ts';
import { describeCuda } from '../../../test/support/cuda.ts';
import { stepBatch } from '../../../test/support/step-batch.ts';

/** Of the largest value: a few roundings of the type. */
const TOLERANCES = { float32: 2e-5, float16: 3e-3, bfloat16: 2e-2 } as const;
const SHAPES = [
  [1, 1],
  [3, 16],
  [2, 17],
  [1, 1025],
  [5, 104],
  [4, 2064],
] as const;

interface AttentionCase {
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly valueHeadDim: number;
  readonly window?: number;
  readonly softcap?: number;
  readonly alibiSlopes?: readonly number[];
  readonly hasSinks?: boolean;
}

function heads(numHeads: number, numKvHeads: number, headDim: number, valueHeadDim = headDim): AttentionCase {
  return { numHeads, numKvHeads, headDim, valueHeadDim };
}

/** A few shapes of each kernel that reads codes. */
const ATTENTIONS_OF_CODES: readonly AttentionCase[] = [
  ...[16, 48, 64, 80, 128, 256].map((headDim) => heads(4, 2, headDim)),
  heads(3, 3, 192, 128),
  heads(2, 1, 40, 24),
  heads(2, 1, 37, 21),
  heads(8, 1, 128),
  heads(35, 1, 16),
  { ...heads(4, 2, 32), window: 29 },
  { ...heads(4, 2, 32), softcap: 1.5 },
  { ...heads(3, 1, 32), alibiSlopes: [0.5, 0.1, 0.02] },
  { ...heads(3, 1, 32), hasSinks: true },
];
const KV_CODES = ['float8_e4m3fn', 'int8'] as const;

const ATTENTIONS: readonly AttentionCase[] = [
  ...[16, 48, 64, 80, 96, 112, 128, 144, 256].map((headDim) => heads(4, 2, headDim)),
  heads(3, 3, 192, 128),
  heads(2, 1, 40, 24),
  heads(2, 1, 37, 21),
  heads(8, 1, 128),
  heads(16, 1, 64),
  heads(35, 1, 16),
  ...[1, 16, 17, 29, 64].map((window) => ({ ...heads(4, 2, 32), window })),
  { ...heads(4, 2, 128), window: 100 },
  { ...heads(4, 2, 32), softcap: 1.5 },
  { ...heads(3, 1, 32), alibiSlopes: [0.5, 0.1, 0.02] },
  { ...heads(3, 1, 32), hasSinks: true },
];

describeCuda('kernels', () => {
  let harness: CudaHarness;
  beforeAll(async () => {
    harness = await CudaHarness.open();
  });
  afterAll(() => harness.close());

  describe.each(['float32', 'float16', 'bfloat16'] as const)('%s', (dtype) => {
    const random = (count: number, seed: number, scale = 1): Float32Array =>
      randomValues(count, seed).map((value) => roundTo(dtype, scale * value));
    const vector = (size: number, seed: number): HarnessOperand => weight([size], seed);

    function weight(shape: readonly number[], seed: number): HarnessOperand {
      const values = random(
        shape.reduce((product, size) => product * size, 1),
        seed,
      );
      return { kind: 'weight', values, shape, dtype, layout: 'rowMajor' };
    }

    function check(
      op: string,
      attributes: Attributes,
      inputs: readonly HarnessOperand[],
      outputs: readonly HarnessOperand[],
      numTokens: number,
    ): Promise<void> {
      const launch = { op, attributes, inputs, outputs };
      return harness.check({ launch, step: plainStep(numTokens), dtype }, TOLERANCES[dtype]);
    }

    it.each(['add', 'multiply'])('%s, on views, in place and apart', async (op) => {
      for (const [rows, columns] of SHAPES) {
        const a = matrix(rows, columns, random(rows * columns, 1), {
          columnStart: 3,
          rowStride: columns + 5,
        });
        const b = matrix(rows, columns, random(rows * columns, 2));
        for (const y of [matrix(rows, columns), { ...a, aliasOf: a }, { ...b, aliasOf: b }])
          await check(op, {}, [a, b], [y], rows);
      }
    });

    it.each([
      ['scale', { factor: -1.75 }],
      ['clamp', { min: -1.5, max: 1 }],
      ['clamp', { min: null, max: 2 }],
      ['softcap', { cap: 2.5 }],
      ...ACTIVATION_KINDS.map((kind) => ['activation', { kind }] as const),
    ] as const)('%s %j', async (op, attributes) => {
      for (const [rows, columns] of SHAPES) {
        const x = matrix(rows, columns, random(rows * columns, 3, 8), { rowStride: columns + 1 });
        for (const y of [matrix(rows, columns), { ...x, aliasOf: x }])
          await check(op, attributes, [x], [y], rows);
      }
    });

    it.each(ACTIVATION_KINDS)('gatedActivation with %s', async (kind) => {
      for (const [rows, columns] of SHAPES) {
        const x = matrix(rows, 2 * columns, random(rows * 2 * columns, 4, 6));
        await check('gatedActivation', { kind }, [x], [matrix(rows, columns)], rows);
      }
    });

    it.each(['rmsNorm', 'layerNorm'])('%s, whole rows and groups', async (op) => {
      const offset = op === 'rmsNorm' ? { weightOffset: 1 } : {};
      for (const [rows, columns] of SHAPES) {
        const x = matrix(rows, columns, random(rows * columns, 1), { columnStart: 2 });
        const affine = [vector(columns, 2), ...(op === 'layerNorm' ? [vector(columns, 3)] : [])];
        const attributes = { eps: 1e-5, groupSize: columns, ...offset };
        for (const y of [matrix(rows, columns), { ...x, aliasOf: x }])
          await check(op, attributes, [x, ...affine], [y], rows);
      }
      const x = matrix(5, 60, random(300, 1));
      const attributes = { eps: 1e-6, groupSize: 20, ...offset };
      await check(op, attributes, [x, vector(20, 2)], [matrix(5, 60)], 5);
    });

    it.each(['addRmsNorm', 'addLayerNorm'])('%s, in place of either operand', async (op) => {
      for (const [rows, columns] of SHAPES) {
        if (columns === 1) continue;
        const x = matrix(rows, columns, random(rows * columns, 1), { columnStart: 1 });
        const residual = matrix(rows, columns, random(rows * columns, 2));
        const attributes = { eps: 1e-5, ...(op === 'addRmsNorm' ? { weightOffset: 0 } : {}) };
        const affine = [vector(columns, 3), ...(op === 'addLayerNorm' ? [vector(columns, 4)] : [])];
        const inX: Matrix = { ...x, aliasOf: x };
        const inResidual: Matrix = { ...residual, aliasOf: residual };
        for (const outputs of [
          [matrix(rows, columns), matrix(rows, columns)],
          [inResidual, inX],
          [inX, inResidual],
        ])
          await check(op, attributes, [x, residual, ...affine], outputs, rows);
      }
    });

    it.each([true, false])('linear by every kernel that fits, with bias: %s', async (hasBias) => {
      for (const rows of [1, 3, 8, 9, 16, 17, 33, 100])
        for (const [outputs, inputs] of [
          [40, 64],
          [17, 32],
          [257, 1056],
          [50, 2600],
          [64, 40],
          [33, 7],
        ]) {
          const x = matrix(rows, inputs, random(rows * inputs, 1));
          const bias: HarnessOperand = hasBias ? vector(outputs, 3) : { kind: 'none' };
          await check('linear', {}, [x, weight([outputs, inputs], 2), bias], [matrix(rows, outputs)], rows);
        }
    });

    it('linear and gatedLinear of many rows', async () => {
      for (const rows of [257, 520])
        for (const [outputs, inputs] of [
          [16, 8],
          [144, 200],
          [272, 72],
        ]) {
          const x = matrix(rows, inputs, random(rows * inputs, 1));
          const operands = [x, weight([outputs, inputs], 2), ...(rows === 257 ? [vector(outputs, 3)] : [])];
          const y = matrix(rows, outputs, undefined, { rowStride: outputs + 8 });
          await check('linear', {}, operands, [y], rows);
          await check('gatedLinear', { kind: 'silu' }, operands, [matrix(rows, outputs / 2)], rows);
        }
    });

    it('linear and gatedLinear of more tiles than fit at once', async () => {
      const [rows, outputs, inputs] = [257, 17024, 8];
      const x = matrix(rows, inputs, random(rows * inputs, 1));
      const operands = [x, weight([outputs, inputs], 2)];
      await check('linear', {}, operands, [matrix(rows, outputs)], rows);
      await check('gatedLinear', { kind: 'silu' }, operands, [matrix(rows, outputs / 2)], rows);
    });

    it.each(ACTIVATION_KINDS)('gatedLinear with %s', async (kind) => {
      for (const rows of [1, 9, 70]) {
        const x = matrix(rows, 64, random(rows * 64, 1));
        await check('gatedLinear', { kind }, [x, weight([48, 64], 2)], [matrix(rows, 24)], rows);
      }
    });

    it('linear fused with a norm or a gated activation before it', async () => {
      for (const rows of [1, 2])
        for (const [outputs, inputs] of [
          [40, 64],
          [2200, 192],
          [33, 4160],
          [50, 2600],
        ]) {
          const x = matrix(rows, inputs, random(rows * inputs, 1));
          const residual = matrix(rows, inputs, random(rows * inputs, 2));
          const both = matrix(rows, 2 * inputs, random(2 * rows * inputs, 3, 3));
          const made = (): Matrix => matrix(rows, inputs);
          const y = matrix(rows, outputs);
          const operands = [weight([outputs, inputs], 4), ...(rows === 1 ? [vector(outputs, 5)] : [])];
          const norm = { eps: 1e-5, weightOffset: rows - 1 };
          const gain = vector(inputs, 6);
          const alone = { source: { ...norm, groupSize: inputs }, product: {} };
          await check('rmsNormLinear', alone, [x, gain, ...operands], [made(), y], rows);
          const after = [x, residual, gain, ...operands];
          await check('addRmsNormLinear', { source: norm, product: {} }, after, [made(), made(), y], rows);
          const gated = { source: { kind: 'silu' }, product: {} };
          await check('gatedActivationLinear', gated, [both, ...operands], [made(), y], rows);
        }
    });

    it('linear on views that are not aligned', async () => {
      const x = matrix(5, 64, random(5 * 64, 1), { columnStart: 3, rowStride: 69 });
      await check('linear', {}, [x, weight([24, 64], 2)], [matrix(5, 24, undefined, { columnStart: 1 })], 5);
    });

    it.each(ATTENTIONS)('attention of %j', (shape) => checkAttention(shape, dtype));

    describe.each(KV_CODES)('%s KV cache', (kvDType) => {
      it.each(ATTENTIONS_OF_CODES)('attention of %j', (shape) => checkAttention(shape, kvDType));
    });

    async function checkAttention(
      { hasSinks, ...shape }: AttentionCase,
      kvDType: KVCacheDType,
    ): Promise<void> {
      const { numHeads, numKvHeads, headDim, valueHeadDim } = shape;
      const plain = { window: null, softcap: null, alibiSlopes: null };
      const attributes = { layer: 0, scale: 0.3, ...plain, ...shape } as Attributes;
      const contextLens = [1, 40, 17, 65, 1300, 130, 16];
      const dims = { numKvHeads, keyHeadDim: headDim, valueHeadDim };
      const { cache, blocks } = filledCache(dims, contextLens, kvDType);
      for (const numQueries of [
        [1, 1, 1, 1, 1, 1, 1],
        [1, 7, 17, 1, 1, 100, 2],
        [1, 40, 2, 65, 70, 130, 1],
      ]) {
        const chunks = contextLens.map((length, i) => {
          const tokenIds = new Array<number>(numQueries[i]).fill(0);
          return { tokenIds, numCached: length - numQueries[i], blocks: blocks[i], logitRows: [] };
        });
        const step = stepBatch(chunks, 16);
        const q = matrix(step.numTokens, numHeads * headDim, random(step.numTokens * numHeads * headDim, 3));
        const names = ['blockTables', 'cuSeqlensQ', 'contextLens'] as const;
        const inputs: HarnessOperand[] = [
          q,
          { kind: 'kvCache', layer: 0 },
          ...names.map((name) => ({ kind: 'input', name }) as const),
          ...(hasSinks ? [vector(numHeads, 5)] : []),
        ];
        const outputs = [matrix(step.numTokens, numHeads * valueHeadDim)];
        const launch = { op: 'attention', attributes, inputs, outputs };
        await harness.check({ dtype, step, cache, launch }, TOLERANCES[dtype]);
      }
    }

    it.each([dtype, ...KV_CODES])('kvWrite to a cache of %s', async (kvDType) => {
      for (const [numKvHeads, keyHeadDim, valueHeadDim] of [
        [1, 1, 3],
        [3, 37, 21],
        [2, 64, 64],
        [5, 80, 48],
        [1, 64, 512],
        [8, 128, 128],
      ]) {
        const dims = { numKvHeads, keyHeadDim, valueHeadDim };
        const { cache, blocks } = filledCache(dims, [40, 3], kvDType);
        const chunks = [
          { tokenIds: new Array<number>(7).fill(0), numCached: 30, blocks: blocks[0], logitRows: [] },
          { tokenIds: [0], numCached: 3, blocks: blocks[1], logitRows: [] },
        ];
        const step = stepBatch(chunks, 16);
        const rows = [keyHeadDim, valueHeadDim].map((dim, i) => {
          const values = random(step.numTokens * numKvHeads * dim, 4 + i, 2);
          // A head of nothing but zeros, which has no scale.
          values.fill(0, 0, dim);
          return matrix(step.numTokens, numKvHeads * dim, values, { rowStride: numKvHeads * dim + 8 * i });
        });
        const inputs: HarnessOperand[] = [...rows, { kind: 'input', name: 'slotMapping' }];
        const outputs: HarnessOperand[] = [{ kind: 'kvCache', layer: 0 }];
        const launch = { op: 'kvWrite', attributes: { layer: 0 }, inputs, outputs };
        await harness.check({ dtype, step, cache, launch }, 0);
      }
    });

    it.each([
      [16, 64, 512],
      [3, 64, 128],
      [80, 64, 256],
      [5, 24, 40],
    ])('latentAttention of %d heads of %d and %d', async (numHeads, headDim, valueHeadDim) => {
      for (const kvDType of [dtype, ...KV_CODES])
        await checkLatentAttention(numHeads, headDim, valueHeadDim, kvDType);
    });

    async function checkLatentAttention(
      numHeads: number,
      headDim: number,
      valueHeadDim: number,
      kvDType: KVCacheDType,
    ): Promise<void> {
      const attributes = { layer: 0, scale: 0.1, numHeads, numKvHeads: 1, headDim, valueHeadDim };
      const contextLens = [1, 40, 64, 65, 700, 130, 16];
      const dims = { numKvHeads: 1, keyHeadDim: headDim, valueHeadDim };
      const { cache, blocks } = filledCache(dims, contextLens, kvDType);
      for (const numQueries of [
        [1, 1, 1, 1, 1, 1, 1],
        [1, 7, 17, 1, 1, 100, 2],
      ]) {
        const chunks = contextLens.map((length, i) => {
          const tokenIds = new Array<number>(numQueries[i]).fill(0);
          return { tokenIds, numCached: length - numQueries[i], blocks: blocks[i], logitRows: [] };
        });
        const step = stepBatch(chunks, 16);
        const [q, latentQ] = [headDim, valueHeadDim].map((dim, i) =>
          matrix(step.numTokens, numHeads * dim, random(step.numTokens * numHeads * dim, 3 + i)),
        );
        const names = ['blockTables', 'cuSeqlensQ', 'contextLens'] as const;
        const arrays = names.map((name) => ({ kind: 'input', name }) as const);
        const inputs: HarnessOperand[] = [q, { kind: 'kvCache', layer: 0 }, ...arrays, latentQ];
        const outputs = [matrix(step.numTokens, numHeads * valueHeadDim)];
        const launch = { op: 'latentAttention', attributes, inputs, outputs };
        await harness.check({ dtype, step, cache, launch }, TOLERANCES[dtype]);
      }
    }

    /** Sequences' keys and values in scattered blocks, NaN in slots that belong to none. */
    function filledCache(
      dims: Pick<KVCacheSpec, 'numKvHeads' | 'keyHeadDim' | 'valueHeadDim'>,
      contextLens: readonly number[],
      kvDType: KVCacheDType,
    ): { cache: NonNullable<CudaCase['cache']>; blocks: readonly (readonly number[])[] } {
      const spec = { layer: 0, window: null, dtype: kvDType, ...dims };
      let numBlocks = 0;
      const blocks = contextLens.map((length) =>
        Array.from({ length: Math.ceil(length / 16) }, () => numBlocks++),
      );
      const paged = new PagedKVCaches([[spec]], 16, [numBlocks]);
      const { keys, values } = paged.layer(0);
      keys.fill(NaN);
      values.fill(NaN);
      contextLens.forEach((length, i) => {
        const slots = Int32Array.from({ length }, (_, at) => blocks[i][Math.floor(at / 16)] * 16 + (at % 16));
        const { numKvHeads, keyHeadDim, valueHeadDim } = dims;
        const k = random(length * numKvHeads * keyHeadDim, 2 * i + 10);
        paged.layer(0).write(k, random(length * numKvHeads * valueHeadDim, 2 * i + 11), slots);
      });
      return { cache: { spec, numBlocks, paged }, blocks };
    }
  });
});
