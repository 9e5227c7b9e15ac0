// The CUDA device against what transformers computes: float32 exactly as the cpu device, 16 bits within their rounding.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { compile } from '../src/compiler/compile.ts';
import { CudaDevice } from '../src/device/cuda/cuda-device.ts';
import type { Executable } from '../src/device/device.ts';
import { CUDA_KERNELS } from '../src/kernels/cuda/index.ts';
import { findModel } from '../src/models/registry.ts';
import type { FloatDType } from '../src/tensor/dtype.ts';
import { describeCuda } from './support/cuda.ts';
import { loadReference, REFERENCE_NAMES, type ReferenceCheckpoint } from './support/reference-checkpoint.ts';
import {
  describeReferenceParity,
  PARITY_BLOCK_SIZE,
  PARITY_MAX_MODEL_LEN,
  PARITY_MAX_TOKENS,
  PARITY_NUM_BLOCKS,
} from './support/reference-parity.ts';
import { stepBatch } from './support/step-batch.ts';

/**
 * Errors of logits in standard deviations of the reference's, of each prompt for itself. Every value between launches is
 * rounded, the residual stream too, as in a 16-bit model of transformers.
 */
const ROUNDING = {
  bfloat16: { rootMeanSquare: 2e-2, largest: 1.6e-1 },
  float16: { rootMeanSquare: 2.5e-3, largest: 2e-2 },
} as const;

/** Rounding may choose another expert where two are close; that says nothing of the kernels. */
const DENSE_NAMES = REFERENCE_NAMES.filter((name) => {
  const { config } = loadReference(name);
  return !['num_experts', 'num_local_experts', 'n_routed_experts'].some((key) => key in config);
});

describeCuda('cuda', () => {
  let device: CudaDevice;
  beforeAll(async () => {
    device = await CudaDevice.open();
  });
  afterAll(() => device.dispose());

  function load({ config, catalog, source }: ReferenceCheckpoint, dtype: FloatDType): Promise<Executable> {
    const plan = compile({
      definition: findModel(config),
      config,
      tensors: catalog,
      checkpointHash: null,
      target: device.target,
      recipe: { weightDType: dtype, kvDType: dtype, activationPrecision: 'auto' },
      limits: { maxNumBatchedTokens: PARITY_MAX_TOKENS, maxNumSeqs: 4, maxNumLogitRows: PARITY_MAX_TOKENS },
      blockSize: PARITY_BLOCK_SIZE,
      maxModelLen: PARITY_MAX_MODEL_LEN,
      kernels: CUDA_KERNELS,
    });
    return device.load(plan, source, { numBlocks: plan.kvCacheGroups.map(() => PARITY_NUM_BLOCKS) });
  }

  describeReferenceParity('float32', async (reference) => {
    const executable = await load(reference, 'float32');
    return async (step) => (await executable.run(step)).logits!;
  });

  describe.each(['bfloat16', 'float16'] as const)('%s', (dtype) => {
    it.each(DENSE_NAMES)('%s, prompts at once and token by token', async (name) => {
      const reference = loadReference(name);
      const executable = await load(reference, dtype);
      const { plan } = executable;
      for (const [prompt, tokenIds] of reference.prompts.entries()) {
        const expected = reference.logits[prompt];
        const blocks = [7, 3, 5];
        const logitRows = [...tokenIds.keys()];
        const numGroups = plan.kvCacheGroups.length;
        const whole = stepBatch(
          [{ tokenIds, numCached: 0, blocks, logitRows }],
          PARITY_BLOCK_SIZE,
          numGroups,
        );
        expectRounded(dtype, (await executable.run(whole)).logits!, expected);
        const rows: number[] = [];
        for (const [numCached, token] of tokenIds.entries()) {
          const step = stepBatch([{ tokenIds: [token], numCached, blocks }], PARITY_BLOCK_SIZE, numGroups);
          for (const logit of (await executable.run(step)).logits!) rows.push(logit);
        }
        expectRounded(dtype, Float32Array.from(rows), expected);
      }
      await executable.dispose();
    });
  });
});

function expectRounded(dtype: keyof typeof ROUNDING, actual: Float32Array, expected: Float32Array): void {
  expect(actual.length).toBe(expected.length);
  const mean = expected.reduce((sum, value) => sum + value, 0) / expected.length;
  const deviation = Math.sqrt(
    expected.reduce((sum, value) => sum + (value - mean) ** 2, 0) / expected.length,
  );
  const errors = actual.map((value, i) => (value - expected[i]) / deviation);
  const rootMeanSquare = Math.sqrt(errors.reduce((sum, error) => sum + error * error, 0) / errors.length);
  const largest = errors.reduce((most, error) => (Math.abs(error) <= most ? most : Math.abs(error)), 0);
  expect(rootMeanSquare, 'root mean square').toBeLessThan(ROUNDING[dtype].rootMeanSquare);
  expect(largest, 'largest').toBeLessThan(ROUNDING[dtype].largest);
}
