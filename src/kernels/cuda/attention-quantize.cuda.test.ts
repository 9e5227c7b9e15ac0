// Attention whose results are codes under a scale that is given, against its definition: a few shapes of each kernel.
import { describe, it } from 'vitest';
import { checkAlone, checkAttention, heads } from '../../../test/support/attention-suite.ts';
import { describeKernels } from '../../../test/support/kernel-suite.ts';

const CASES = [
  heads(4, 2, 64),
  heads(8, 1, 128),
  heads(3, 3, 192, 128),
  heads(35, 1, 16),
  heads(2, 1, 40, 24),
  // By the plain kernel.
  heads(2, 1, 37, 21),
  { ...heads(3, 1, 32), hasSinks: true },
];

describeKernels('attention to codes', (kernels) => {
  describe.each(['int8', 'float8_e4m3fn'] as const)('of %s', (codes) => {
    it.each(CASES)('of %j', (shape) => checkAttention(kernels, shape, kernels.dtype, codes));
    it('of one token', () => checkAlone(kernels, heads(4, 2, 64), kernels.dtype, codes));
    it('over a cache of codes', () => checkAttention(kernels, heads(8, 2, 128), 'float8_e4m3fn', codes));
  });
});
