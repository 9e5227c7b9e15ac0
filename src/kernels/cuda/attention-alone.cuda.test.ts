// Attention of a sequence that is alone in its step, against its definition: few heads of keys and many, and all rules of scores.
import { it } from 'vitest';
import { checkAlone, heads, type AttentionCase } from '../../../test/support/attention-suite.ts';
import { describeKernels } from '../../../test/support/kernel-suite.ts';

const CASES: readonly AttentionCase[] = [
  heads(32, 32, 128),
  heads(64, 64, 32),
  heads(32, 16, 48, 40),
  // Two tiles of queries to a head of keys.
  heads(320, 16, 16),
  heads(2, 1, 128),
  // More than there are blocks.
  heads(140, 140, 16),
  { ...heads(32, 16, 32), window: 70, softcap: 1.5 },
  { ...heads(16, 16, 16), alibiSlopes: Array.from({ length: 16 }, (_, head) => 0.5 / (head + 1)) },
  { ...heads(32, 32, 32), hasSinks: true },
];

describeKernels('attention of one sequence', (kernels) => {
  it.each(CASES)('of %j', (shape) => checkAlone(kernels, shape, kernels.dtype));
  it.each(CASES.slice(0, 4))('over codes, of %j', async (shape) => {
    for (const dtype of ['int8', 'float8_e4m3fn'] as const) await checkAlone(kernels, shape, dtype);
  });
});
