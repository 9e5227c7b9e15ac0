// Attention over caches of numbers against its definition: windows, soft caps, ALiBi and sinks.
import { it } from 'vitest';
import { checkAttention, heads, SCORE_RULES } from '../../../test/support/attention-suite.ts';
import { describeKernels } from '../../../test/support/kernel-suite.ts';

const WINDOWS = [
  ...[1, 16, 17, 64].map((window) => ({ ...heads(4, 2, 32), window })),
  { ...heads(4, 2, 128), window: 100 },
];

describeKernels('attention', (kernels) => {
  it.each([...WINDOWS, ...SCORE_RULES])('of %j', (shape) => checkAttention(kernels, shape, kernels.dtype));
});
