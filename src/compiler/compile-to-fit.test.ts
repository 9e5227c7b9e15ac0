import { NO_QUANTIZATION } from '../tensor/precision.ts';
import { describe, expect, test } from 'vitest';
import { plainKernels, TINY_LLAMA } from '../../test/support/compile.ts';
import { loadReference } from '../../test/support/reference-checkpoint.ts';
import { findModel } from '../models/registry.ts';
import { compileRequestFor, compileToFit, publishedDType } from './compile-to-fit.ts';

const MODEL = { definition: findModel(TINY_LLAMA), config: TINY_LLAMA, tensors: null, checkpointHash: null };
const TARGET = { kind: 'reference', arch: 'any' } as const;
const SETTINGS = {
  dtype: 'auto',
  ...NO_QUANTIZATION,
  activationDType: 'auto',
  maxModelLen: null,
  maxNumSeqs: 4,
  maxNumBatchedTokens: 32,
  blockSize: 16,
  kvCacheMemoryBytes: null,
  memoryUtilization: 1,
} as const;

function fit(changes: Partial<Parameters<typeof compileToFit>[1]>, availableBytes = 2 ** 30) {
  return compileToFit(MODEL, { ...SETTINGS, ...changes }, TARGET, plainKernels(), availableBytes);
}

describe('compileToFit', () => {
  test('takes the model’s own context where it fits', () => {
    const { plan, ledger, shortenedFrom } = fit({});
    expect(plan.model.maxModelLen).toBe(64);
    expect(shortenedFrom).toBeNull();
    expect(ledger.numBlocks).toEqual([16]);
  });

  test('shortens a context that nobody asked for to what fits', () => {
    const kvCacheMemoryBytes = 3 * 16 * 256; // blocks of 16 tokens of 256 bytes
    const { plan, ledger, shortenedFrom } = fit({ kvCacheMemoryBytes });
    expect([plan.model.maxModelLen, shortenedFrom]).toEqual([48, 64]);
    expect(plan.ropeTables[0].numPositions).toBe(48);
    expect(ledger).toMatchObject({ error: null, numBlocks: [3] });
  });

  test('keeps the context that was asked for, and says why it does not fit', () => {
    const { plan, ledger } = fit({ maxModelLen: 64, kvCacheMemoryBytes: 3 * 16 * 256 });
    expect(plan.model.maxModelLen).toBe(64);
    expect(ledger.error).toContain('--max-model-len 48   the longest that fits');
  });

  test('says why if nothing fits', () => {
    expect(fit({}, 1000)).toMatchObject({
      shortenedFrom: null,
      ledger: { error: expect.stringContaining('weights') as string },
    });
  });
});

describe('settings of a recipe', () => {
  test.each([
    [{ quantizationGroupSize: 64 }, /--quantization-group-size 64 is of no use without --quantization/],
    [{ quantizationKeep: ['*.mlp.*'] }, /--quantization-keep \*\.mlp\.\* is of no use without/],
  ])('are refused without one: %j', (changes, message) => {
    expect(() => fit(changes)).toThrow(message);
  });
});

describe('logit rows', () => {
  const rowsOf = (vocabSize: number) => {
    const config = { ...TINY_LLAMA, vocab_size: vocabSize };
    return compileRequestFor({ ...MODEL, config }, SETTINGS, TARGET, []).limits.maxNumLogitRows;
  };

  test('suffice for a whole step of prompt tokens beside every sequence’s next token', () => {
    expect(rowsOf(96)).toBe(32 + 4);
  });

  test('are fewer where the vocabulary makes them large, and never none', () => {
    expect(rowsOf(2 ** 20)).toBe(16 + 4);
    expect(rowsOf(2 ** 26)).toBe(1 + 4);
  });
});

describe('publishedDType', () => {
  test('is what most of the checkpoint’s elements have', () => {
    const { config, catalog } = loadReference('llama2');
    expect(publishedDType({ ...config, dtype: 'float32' }, catalog)).toBe('bfloat16');
  });

  test.each([
    [{ torch_dtype: 'float16' }, 'float16'],
    [{ dtype: 'bfloat16' }, 'bfloat16'],
    [{ dtype: 'float64' }, 'float32'],
    [{}, 'float32'],
  ])('without a checkpoint is what the config says: %j', (config, dtype) => {
    expect(publishedDType(config, null)).toBe(dtype);
  });
});
