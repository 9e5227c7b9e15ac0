import { describe, expect, test } from 'vitest';
import { compileRequest, panelKernels, TINY_LLAMA } from '../../test/support/compile.ts';
import { DEFAULT_QUANTIZATION_KEEP } from '../tensor/precision.ts';
import { findPreset } from '../models/presets.ts';
import { compile } from './compile.ts';
import { memoryLedger, type MemoryBudget } from './ledger.ts';
import type { Plan } from './plan.ts';
import { quantizationRules } from './quantization-rules.ts';
import type { CompileRequest } from './request.ts';

function planOf(preset: string, changes: Partial<CompileRequest> = {}): Plan {
  const recipe = {
    weightDType: 'float16',
    quantization: null,
    kvDType: 'float16',
    activationPrecision: 'auto',
  } as const;
  const limits = { maxNumBatchedTokens: 512, maxNumSeqs: 64, maxNumLogitRows: 64 };
  return compile(
    compileRequest(findPreset(preset)!.config, { recipe, limits, maxModelLen: 1024, ...changes }),
  );
}

const BUDGET: MemoryBudget = {
  availableBytes: 24 * 2 ** 30,
  kvCacheMemoryBytes: null,
  memoryUtilization: 0.5,
  maxNumSeqs: 64,
  maxModelLen: 1024,
};

describe('memoryLedger', () => {
  test('Llama-2-70B in float16: 137,953,296,384 bytes of weights; 32 × 4096 tokens: 42,949,672,960 of KV cache', () => {
    const target = { kind: 'cuda', arch: 'sm_90' } as const;
    const plan = planOf('llama-2-70b', { target, maxModelLen: 4096 });
    const ledger = memoryLedger(plan, {
      availableBytes: 2 * 141 * 10 ** 9,
      kvCacheMemoryBytes: null,
      memoryUtilization: 0.9,
      maxNumSeqs: 32,
      maxModelLen: 4096,
    });
    expect(ledger.error).toBeNull();
    expect(ledger.weightBytes).toBe(137_953_296_384);
    expect(ledger.kvCacheBytes).toBe(42_949_672_960);
    expect(ledger.caches).toMatchObject([{ bytesPerToken: 327_680, numBlocks: 8192, numLayers: 80 }]);
  });

  test('arrays of a step count where they lie on the device', () => {
    const [here, there] = (['cpu', 'cuda'] as const).map((kind) =>
      memoryLedger(planOf('tinyllama-1.1b', { target: { kind, arch: 'sm_90' } }), BUDGET),
    );
    expect(here.stepBytes).toBe(0);
    // A block table of 65 entries for each sequence, at least.
    expect(there.stepBytes).toBeGreaterThan(64 * 65 * 4);
    const { weightBytes, ropeTableBytes, activationBytes, workspaceBytes, stepBytes } = there;
    expect(there.fixedBytes).toBe(
      weightBytes + ropeTableBytes + activationBytes + workspaceBytes + stepBytes,
    );
  });

  test('the parts add up, line by line', () => {
    const plan = planOf('tinyllama-1.1b');
    const ledger = memoryLedger(plan, BUDGET);
    const weights = plan.weights.reduce((sum, weight) => sum + weight.bytes, 0);
    expect(ledger.weightBytes).toBe(weights);
    expect(ledger.ropeTableBytes).toBe(1024 * 64 * 4);
    expect(ledger.activationBytes).toBe(plan.arenaBytes);
    expect(ledger.fixedBytes).toBe(
      weights + ledger.ropeTableBytes + ledger.activationBytes + ledger.workspaceBytes,
    );
    expect(ledger.totalBytes).toBe(ledger.fixedBytes + ledger.kvCacheBytes);
    // 22 layers, 4 heads of 64 + 64, 16 bits, 16 tokens a block.
    expect(ledger.caches).toMatchObject([
      { bytesPerToken: 22 * 4 * 128 * 2, bytesPerBlock: 22 * 4 * 128 * 2 * 16 },
    ]);
    expect(ledger.kvCacheBytes).toBe(ledger.numBlocks[0] * ledger.caches[0].bytesPerBlock);
  });

  test('the cache is never larger than all sequences at full length could use', () => {
    const ledger = memoryLedger(planOf('tinyllama-1.1b'), {
      ...BUDGET,
      availableBytes: 2 ** 40,
      maxNumSeqs: 3,
      maxModelLen: 1001,
    });
    expect(ledger.numBlocks).toEqual([3 * 63]);
    expect(ledger.numCacheTokens).toBe(3 * 1008);
    expect(ledger.fits).toEqual([
      { length: 1001, numSeqs: 3 },
      { length: 501, numSeqs: 3 },
      { length: 251, numSeqs: 3 },
      { length: 63, numSeqs: 3 },
    ]);
  });

  test('the cache takes what the budget leaves, in whole blocks', () => {
    const plan = planOf('tinyllama-1.1b');
    const available = memoryLedger(plan, BUDGET).fixedBytes + 100 * 360_448 + 5; // 100 blocks and a bit
    const ledger = memoryLedger(plan, { ...BUDGET, availableBytes: available, memoryUtilization: 1 });
    expect(ledger.numBlocks).toEqual([100]);
    expect(ledger.fits).toEqual([
      { length: 1024, numSeqs: 1 },
      { length: 512, numSeqs: 3 },
      { length: 256, numSeqs: 6 },
      { length: 64, numSeqs: 25 },
    ]);
    expect(memoryLedger(plan, { ...BUDGET, kvCacheMemoryBytes: 100 * 360_448 }).numBlocks).toEqual([100]);
  });

  test('layers of another window are a group of their own', () => {
    const plan = planOf('mistral-7b');
    expect(plan.kvCacheGroups.map(({ window, layers }) => [window, layers.length])).toEqual([[4096, 32]]);
  });
});

describe('when not even one sequence fits', () => {
  test('the error lists every line and the flags to change with their numbers', () => {
    const plan = planOf('tinyllama-1.1b', { maxModelLen: 2048 });
    const fixed = memoryLedger(plan, BUDGET).fixedBytes;
    const availableBytes = fixed + 2048 * 22_528 + 10 ** 6;
    const ledger = memoryLedger(plan, {
      ...BUDGET,
      availableBytes,
      memoryUtilization: 0.99,
      maxModelLen: 2048,
    });
    expect(ledger.error).toMatchInlineSnapshot(`
      "not even one sequence of 2048 tokens (--max-model-len) fits into memory:
        weights                                            2,200,281,088     2.05 GiB
        rope tables                                              524,288   512.00 KiB
        activations                                           42,991,616    41.00 MiB
        workspace                                                      0      0 bytes
        KV cache of one sequence of 2048 tokens               46,137,344    44.00 MiB
        needed                                             2,289,934,336     2.13 GiB
        allowed (--memory-utilization 0.99)                2,268,024,992     2.11 GiB
        available on the device                            2,290,934,336     2.13 GiB
      What helps:
        --max-model-len 1072   the longest that fits (one sequence: 23.03 MiB of KV cache)
        --memory-utilization 1   2.13 GiB of the device's memory
        --kv-cache-dtype fp8   weights 2.05 GiB, KV cache of one sequence 22.00 MiB, 2.11 GiB in all"
    `);
    const shorter = {
      ...BUDGET,
      availableBytes,
      memoryUtilization: 0.99,
      maxModelLen: ledger.longestModelLen,
    };
    expect(memoryLedger(plan, shorter).error).toBeNull();
    expect(memoryLedger(plan, { ...shorter, maxModelLen: ledger.longestModelLen + 16 }).error).not.toBeNull();
    expect(
      memoryLedger(plan, { ...BUDGET, availableBytes, memoryUtilization: 1, maxModelLen: 2048 }).error,
    ).toBeNull();
  });

  test('float32 weights: 16-bit ones are offered, with what they would take', () => {
    const recipe = {
      weightDType: 'float32',
      quantization: null,
      kvDType: 'float32',
      activationPrecision: 'auto',
    } as const;
    const plan = planOf('tinyllama-1.1b', { recipe });
    const ledger = memoryLedger(plan, { ...BUDGET, availableBytes: 4 * 2 ** 30, memoryUtilization: 0.9 });
    const narrow = memoryLedger(planOf('tinyllama-1.1b'), BUDGET);
    const total = narrow.fixedBytes + 64 * narrow.caches[0].bytesPerBlock;
    expect(ledger.longestModelLen).toBe(0);
    expect(ledger.error).toContain(`--dtype bfloat16   weights 2.05 GiB, KV cache of one sequence 22.00 MiB`);
    expect(ledger.error).toContain(`${(total / 2 ** 30).toFixed(2)} GiB in all`);
    expect(ledger.error).not.toContain('--max-model-len 0');
  });

  test('16-bit weights: the mildest of 8-bit ones and an 8-bit cache that is enough is offered', () => {
    const plan = planOf('tinyllama-1.1b');
    const { fixedBytes } = memoryLedger(plan, BUDGET);
    const offered = (availableBytes: number): string =>
      memoryLedger(plan, { ...BUDGET, availableBytes, memoryUtilization: 1 }).error!;
    const seqBytes = 1024 * 22_528;
    expect(offered(fixedBytes + seqBytes / 2)).toContain('--kv-cache-dtype fp8   weights 2.05 GiB');
    expect(offered(fixedBytes - 1)).toContain('--quantization int8   weights 1.15 GiB');
    const recipe = {
      weightDType: 'float16',
      quantization: quantizationRules('int8', null, DEFAULT_QUANTIZATION_KEEP),
      kvDType: 'float16',
      activationPrecision: 'auto',
    } as const;
    const int8 = memoryLedger(planOf('tinyllama-1.1b', { recipe }), BUDGET);
    const gib = (int8.weightBytes / 2 ** 30).toFixed(2);
    expect(offered(int8.fixedBytes + seqBytes)).toContain(`--quantization int8   weights ${gib} GiB`);
    expect(offered(int8.fixedBytes + seqBytes / 2)).toContain('--quantization int8 --kv-cache-dtype fp8');
  });

  test('padded panels are counted for 16-bit weights too', () => {
    const plan = compile(compileRequest({ ...TINY_LLAMA, vocab_size: 97 }, { kernels: panelKernels() }));
    const ledger = memoryLedger(plan, { ...BUDGET, availableBytes: 100, maxModelLen: 64 });
    expect(ledger.weightBytes).toBeGreaterThan(plan.model.numParameters * 4);
    expect(ledger.error).toContain('no flag alone is enough');
  });

  test('a cache size that is too small for one sequence names the size that is enough', () => {
    const ledger = memoryLedger(planOf('tinyllama-1.1b'), { ...BUDGET, kvCacheMemoryBytes: 10 ** 6 });
    expect(ledger.error).toMatch(
      /--kv-cache-memory-bytes 23068672 {3}room for one such sequence; at most \d+ are there/,
    );
    expect(ledger.error).toMatch(/--max-model-len 32 {3}the longest that fits/);
  });

  test('a cache size beyond the device’s memory is refused, unless it could never be used', () => {
    const plan = planOf('tinyllama-1.1b');
    const budget = { ...BUDGET, availableBytes: 3 * 2 ** 30, kvCacheMemoryBytes: 2 ** 40 };
    expect(memoryLedger(plan, budget).error).toMatch(/^--kv-cache-memory-bytes 1099511627776 does not fit/);
    expect(memoryLedger(plan, { ...budget, maxNumSeqs: 2 }).error).toBeNull();
  });
});
