// GPTQ's checkpoints whose columns are in another order, computed with by the GPU: prompts, and a step of a single token.
import { describe, expect, it } from 'vitest';
import { describeCudaDevice } from '../support/cuda.ts';
import { GPTQ_V1, gptqCheckpoint, type GptqVariant } from '../support/gptq-layout.ts';
import { errorOf } from '../support/ready-made.ts';

const ORDERED: readonly GptqVariant[] = [
  { ...GPTQ_V1, isOrdered: true },
  { ...GPTQ_V1, isOrdered: true, groupSize: 128 },
  { ...GPTQ_V1, isOrdered: true, groupSize: 128, bits: 8, sym: true },
];

/** Largest differences in the largest logit; codes in the wrong order are no nearer than chance. */
const BOUNDS = [
  ['float32', 1e-4],
  ['float16', 0.01],
  ['bfloat16', 0.08],
] as const;

describeCudaDevice("GPTQ's desc_act", (device) => {
  describe.each(BOUNDS)('in %s', (dtype, bound) => {
    it.each(ORDERED)('gives the logits of the floats that the codes mean: %o', async (variant) => {
      const error = await errorOf(gptqCheckpoint(variant), { device: device(), dtype });
      expect(error).toBeLessThan(bound);
    });
  });
});
