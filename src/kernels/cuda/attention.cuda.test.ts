// Attention over caches of numbers against its definition: sizes and groups of heads.
import { it } from 'vitest';
import { checkAttention, heads } from '../../../test/support/attention-suite.ts';
import { describeKernels } from '../../../test/support/kernel-suite.ts';

const CASES = [
  ...[16, 48, 64, 80, 96, 112, 128, 144, 256].map((headDim) => heads(4, 2, headDim)),
  heads(3, 3, 192, 128),
  heads(2, 1, 40, 24),
  heads(2, 1, 37, 21),
  heads(8, 1, 128),
  heads(16, 1, 64),
  heads(35, 1, 16),
  // More pieces of prompts than multiprocessors, several for each.
  heads(64, 8, 128),
];

describeKernels('attention', (kernels) => {
  it.each(CASES)('of %j', (shape) => checkAttention(kernels, shape, kernels.dtype));
});
