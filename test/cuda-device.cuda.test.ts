// The CUDA device against what transformers computes: float32 exactly as the cpu device, 16 bits within their rounding.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Plan } from '../src/compiler/plan.ts';
import { CudaDevice } from '../src/device/cuda/cuda-device.ts';
import type { Executable } from '../src/device/device.ts';
import type { StepBatch } from '../src/device/step.ts';
import { findModel } from '../src/models/registry.ts';
import type { FloatDType } from '../src/tensor/dtype.ts';
import { describeCuda } from './support/cuda.ts';
import { ExpertOracle, ForcedExperts } from './support/forced-experts.ts';
import { loadReference, REFERENCE_NAMES, type ReferenceCheckpoint } from './support/reference-checkpoint.ts';
import {
  describeReferenceParity,
  PARITY_BLOCK_SIZE,
  PARITY_MAX_MODEL_LEN,
  PARITY_NUM_BLOCKS,
  parityPlan,
} from './support/reference-parity.ts';
import { expectRounded } from './support/rounding.ts';
import { stepBatch } from './support/step-batch.ts';

const DENSE_NAMES = REFERENCE_NAMES.filter((name) => !hasExperts(loadReference(name)));
const EXPERT_NAMES = REFERENCE_NAMES.filter((name) => hasExperts(loadReference(name)));
/** By how much the scores of the experts that rounding chose instead may lie below the oracle's, summed over a token's. */
const MAX_SCORE_GAP = { bfloat16: 0.01, float16: 0.002 } as const;

function hasExperts({ config }: ReferenceCheckpoint): boolean {
  return ['num_experts', 'num_local_experts', 'n_routed_experts'].some((key) => key in config);
}

describeCuda('cuda', () => {
  let device: CudaDevice;
  beforeAll(async () => {
    device = await CudaDevice.open();
  });
  afterAll(() => device.dispose());

  function planOf(reference: ReferenceCheckpoint, dtype: FloatDType): Plan {
    const recipe = { weightDType: dtype, quantization: null, kvDType: dtype } as const;
    return parityPlan(reference, device.target, { ...recipe, activationPrecision: 'auto' });
  }

  function load(reference: ReferenceCheckpoint, dtype: FloatDType): Promise<Executable> {
    const plan = planOf(reference, dtype);
    return device.load(plan, reference.source, {
      numBlocks: plan.kvCacheGroups.map(() => PARITY_NUM_BLOCKS),
    });
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

    it.each(EXPERT_NAMES)('%s, with the experts that the oracle chooses', async (name) => {
      const reference = loadReference(name);
      const plan = planOf(reference, dtype);
      const forced = await ForcedExperts.load(device.runtime, plan, reference.source, PARITY_NUM_BLOCKS);
      const graph = findModel(reference.config).buildGraph(reference.config, {
        kvDType: 'float32',
        maxModelLen: PARITY_MAX_MODEL_LEN,
      });
      const sizes = { numBlocks: PARITY_NUM_BLOCKS, blockSize: PARITY_BLOCK_SIZE };
      const oracle = new ExpertOracle(graph, { readTensor: reference.readTensor, ...sizes });
      const run = (step: StepBatch): Float32Array => {
        const choices = oracle.run(step);
        const { logits, free } = forced.run(step, choices);
        free.forEach((ids, router) =>
          expect(oracle.scoreGap(router, choices[router], ids)).toBeLessThan(MAX_SCORE_GAP[dtype]),
        );
        return logits;
      };
      for (const [prompt, tokenIds] of reference.prompts.entries()) {
        const chunk = (start: number, end: number): StepBatch => {
          const rows = tokenIds.slice(start, end);
          const sequence = {
            tokenIds: rows,
            numCached: start,
            blocks: [7, 3, 5],
            logitRows: [...rows.keys()],
          };
          return stepBatch([sequence], PARITY_BLOCK_SIZE, plan.kvCacheGroups.length);
        };
        expectRounded(dtype, run(chunk(0, tokenIds.length)), reference.logits[prompt]);
        const rows = [...tokenIds.keys()].flatMap((token) => [...run(chunk(token, token + 1))]);
        expectRounded(dtype, Float32Array.from(rows), reference.logits[prompt]);
      }
      forced.dispose();
    });
  });
});
